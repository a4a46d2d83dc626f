//! The highest epoch as bytes that a host stores among its own data.

use crate::base::{Error, Result, Status};

/// Length of a [`Record`].
pub const RECORD_BYTES: usize = 24;
/// An epoch with its form and checksum: `"TNRepoch"`, the epoch as u64, a crc32c of both as u32, four bytes 0; little-endian.
pub type Record = [u8; RECORD_BYTES];

const MAGIC: &[u8; 8] = b"TNRepoch";
/// Epochs and tokens stay below this.
pub(super) const EPOCH_END: u64 = 1 << 63;

/// What becomes of a write that may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// To be stored in the same transaction as the write. It is the same as what is stored unless `raised`.
    pub record: Record,
    /// The epoch is higher than the one stored, so the record has to be stored.
    pub raised: bool,
}

/// # Errors
/// [`Status::InvalidArgument`] unless `epoch` is in `1..2^63`.
pub(super) fn check_range(epoch: u64) -> Result<()> {
    if epoch == 0 || epoch >= EPOCH_END {
        return Err(Error::invalid("epoch", format_args!("{epoch} is not in 1..2^63")));
    }
    Ok(())
}

pub(super) fn fenced(epoch: u64, highest: u64) -> Error {
    Error::new(Status::Fenced, format!("epoch {epoch} is below {highest}, which has been admitted here")).with_token(highest)
}

/// Whether a write under `epoch` may be done where `stored` is the record of the epochs before: empty when none was ever stored. The
/// caller reads `stored` and writes in one transaction, or under a lock that every writer takes.
///
/// # Errors
/// [`Status::Fenced`] with the higher epoch: the write must not be done. [`Status::DataCorrupt`] when `stored` is no record: nothing may be
/// written then. [`Status::InvalidArgument`] for an epoch outside `1..2^63`.
pub fn admit(stored: &[u8], epoch: u64) -> Result<Admission> {
    check_range(epoch)?;
    let highest = read(stored)?;
    if epoch < highest {
        return Err(fenced(epoch, highest));
    }
    let mut record = [0; RECORD_BYTES];
    record[..8].copy_from_slice(MAGIC);
    record[8..16].copy_from_slice(&epoch.to_le_bytes());
    let crc = crc32c::crc32c(&record[..16]);
    record[16..20].copy_from_slice(&crc.to_le_bytes());
    Ok(Admission { record, raised: epoch > highest })
}

/// The epoch in a record; 0 for an empty one.
///
/// # Errors
/// [`Status::DataCorrupt`].
pub fn read(stored: &[u8]) -> Result<u64> {
    if stored.is_empty() {
        return Ok(0);
    }
    let corrupt = |why: &str| Error::new(Status::DataCorrupt, format!("the epoch record {why}"));
    let Ok(record) = Record::try_from(stored) else {
        return Err(corrupt(&format!("has {} bytes and not {RECORD_BYTES}", stored.len())));
    };
    let word = |at: usize| u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]]);
    if record[..8] != *MAGIC || word(20) != 0 {
        return Err(corrupt("is of another form"));
    }
    if word(16) != crc32c::crc32c(&record[..16]) {
        return Err(corrupt("has a wrong checksum"));
    }
    Ok(u64::from(word(8)) | u64::from(word(12)) << 32)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    // I-06.
    #[test]
    fn a_lower_epoch_is_refused_with_the_higher_one() {
        let first = admit(b"", 7).unwrap();
        assert!(first.raised);
        assert_eq!(admit(&first.record, 7).unwrap(), Admission { raised: false, ..first });
        let e = admit(&first.record, 6).unwrap_err();
        assert_eq!((e.status(), e.token()), (Status::Fenced, 7));
        let second = admit(&first.record, u64::from(u32::MAX) + 9).unwrap();
        assert_eq!((second.raised, read(&second.record).unwrap()), (true, u64::from(u32::MAX) + 9));
        for epoch in [0, 1 << 63, u64::MAX] {
            assert_eq!(admit(&first.record, epoch).unwrap_err().status(), Status::InvalidArgument);
        }
    }

    #[test]
    fn a_damaged_record_admits_nobody() {
        let whole = admit(b"", 7).unwrap().record;
        for bit in 0..RECORD_BYTES * 8 {
            let mut bad = whole;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(admit(&bad, 1 << 62).unwrap_err().status(), Status::DataCorrupt, "bit {bit}");
        }
        for length in 1..RECORD_BYTES {
            assert_eq!(read(&whole[..length]).unwrap_err().status(), Status::DataCorrupt);
        }
    }

    #[test]
    fn the_stored_form_is_this() {
        let golden = [84, 78, 82, 101, 112, 111, 99, 104, 1, 2, 0, 0, 0, 0, 0, 0];
        let record = admit(b"", 513).unwrap().record;
        assert_eq!(record[..16], golden);
        assert_eq!(record[16..20], crc32c::crc32c(&golden).to_le_bytes());
    }
}
