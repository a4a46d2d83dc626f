//! A large value over a stream: parts of at most 1 MiB at a bounded rate, and a hash of the whole before it counts.
//!
//! ```text
//! part:  0 | bytes            end:  1 | total u64 | SHA-256 (32)        (little-endian)
//! ```

use std::time::Duration;

use bytes::{Buf, Bytes};
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use tokio::time::{Instant, sleep_until};

use crate::base::{Error, Result, Status};

use super::now;
use super::stream::{StreamReceiver, StreamSender};

/// The largest part, in bytes.
pub const PART_MAX: usize = 1 << 20;
/// The largest whole that is taken, in bytes.
pub const WHOLE_MAX: u64 = 1 << 30;

const PART: u8 = 0;
const END: u8 = 1;
const END_LEN: usize = 8 + SHA256_OUTPUT_LEN;

/// The sending side.
pub struct SnapshotSender {
    stream: StreamSender,
    hash: Context,
    total: u64,
    rate: u64,
    due: Instant,
    frame: Vec<u8>,
}

impl SnapshotSender {
    /// Sends over `stream`, at most `rate` bytes a second; 0 for as fast as it goes.
    pub fn new(stream: StreamSender, rate: u64) -> SnapshotSender {
        SnapshotSender { stream, hash: Context::new(&SHA256), total: 0, rate, due: now(), frame: Vec::new() }
    }

    /// Sends the next bytes, in parts, each when its time has come.
    ///
    /// # Errors
    /// As [`StreamSender::send`].
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        for part in bytes.chunks(PART_MAX) {
            if self.rate > 0 {
                sleep_until(self.due).await;
                let takes = Duration::from_secs_f64(part.len() as f64 / self.rate as f64);
                self.due = self.due.max(now()) + takes;
            }
            self.hash.update(part);
            self.total += part.len() as u64;
            self.frame.clear();
            self.frame.push(PART);
            self.frame.extend_from_slice(part);
            self.stream.send(&self.frame).await?;
        }
        Ok(())
    }

    /// Sends the length and the hash of the whole. The other side's answer comes over the stream's other direction.
    ///
    /// # Errors
    /// As [`StreamSender::send`].
    pub async fn finish(mut self) -> Result<()> {
        let mut end = vec![END];
        end.extend_from_slice(&self.total.to_le_bytes());
        end.extend_from_slice(self.hash.finish().as_ref());
        self.stream.send(&end).await?;
        self.stream.finish();
        Ok(())
    }
}

/// The receiving side. Parts are given as they come; they count only once [`SnapshotReceiver::next`] has said `None`.
pub struct SnapshotReceiver {
    stream: StreamReceiver,
    hash: Context,
    total: u64,
    cap: u64,
    done: bool,
}

impl SnapshotReceiver {
    /// Receives from `stream` a whole of at most `cap` bytes, and never more than [`WHOLE_MAX`].
    pub fn new(stream: StreamReceiver, cap: u64) -> SnapshotReceiver {
        SnapshotReceiver { stream, hash: Context::new(&SHA256), total: 0, cap: cap.min(WHOLE_MAX), done: false }
    }

    /// The next part; `None` once length and hash of the whole have been found right.
    ///
    /// # Errors
    /// [`Status::DataCorrupt`] for a wrong length or hash or a stream that ends early, [`Status::Limit`] for a whole over the
    /// cap, and as [`StreamReceiver::recv`]. What was received before is then worth nothing.
    #[allow(clippy::should_implement_trait)]
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        let corrupt = |what: &str| Error::new(Status::DataCorrupt, format!("snapshot: {what}"));
        if self.done {
            return Ok(None);
        }
        let Some(mut item) = self.stream.recv().await? else { return Err(corrupt("it ends early")) };
        match item.split_first() {
            Some((&PART, part)) if part.len() <= PART_MAX => {
                self.total += part.len() as u64;
                if self.total > self.cap {
                    return Err(Error::new(Status::Limit, format!("a snapshot of more than {} bytes", self.cap)));
                }
                self.hash.update(part);
                item.advance(1);
                Ok(Some(item))
            }
            Some((&END, end)) if end.len() == END_LEN => {
                let (total, hash) = end.split_at(8);
                if total != self.total.to_le_bytes() {
                    return Err(corrupt("its length is not the one announced"));
                }
                if hash != self.hash.clone().finish().as_ref() {
                    return Err(corrupt("its hash is not the one announced"));
                }
                self.done = true;
                Ok(None)
            }
            _ => Err(corrupt("a part that is none")),
        }
    }
}
