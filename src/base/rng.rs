//! Randomness as an argument, so that a simulation can seed it.

use super::error::{Error, Result};

/// A source of random numbers.
pub trait Rng: Send {
    /// 64 random bits.
    fn next_u64(&mut self) -> u64;

    /// 128 random bits, for instance nonces.
    fn next_u128(&mut self) -> u128 {
        (u128::from(self.next_u64()) << 64) | u128::from(self.next_u64())
    }

    /// A number below `bound`; 0 for a bound of 0.
    fn below(&mut self, bound: u64) -> u64 {
        // The multiply-shift map: its bias is below bound / 2^64.
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }
}

/// The operating system's generator, read through `getrandom(2)`.
#[derive(Debug)]
pub struct SystemRng {
    state: SeededRng,
}

impl SystemRng {
    /// Seeds a generator from the operating system.
    ///
    /// # Errors
    /// [`crate::base::Status::Io`] when the system gives no randomness.
    pub fn new() -> Result<SystemRng> {
        let mut seed = [0u8; 8];
        fill(&mut seed)?;
        Ok(SystemRng { state: SeededRng::new(u64::from_ne_bytes(seed)) })
    }
}

impl Rng for SystemRng {
    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0u8; 8];
        match fill(&mut bytes) {
            Ok(()) => u64::from_ne_bytes(bytes),
            // The pool answered at construction; should it ever stop, ids must still differ.
            Err(_) => self.state.next_u64(),
        }
    }
}

#[allow(unsafe_code)]
fn fill(bytes: &mut [u8]) -> Result<()> {
    // SAFETY: the pointer and the length are those of a live, writable slice.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got == bytes.len() as isize { Ok(()) } else { Err(Error::io("getrandom", &std::io::Error::last_os_error())) }
}

/// SplitMix64: small, seedable, good enough for jitter and tests. Not for secrets.
///
/// Source: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
#[derive(Clone, Debug)]
pub struct SeededRng(u64);

impl SeededRng {
    /// The generator of this seed; equal seeds give equal sequences.
    pub fn new(seed: u64) -> SeededRng {
        SeededRng(seed)
    }
}

impl Rng for SeededRng {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
