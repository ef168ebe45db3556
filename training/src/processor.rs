//! Which vector instructions the kernels use: what the processor has, or less where a test or the operator wants less.
//! It changes how fast the arithmetic is and never what it computes.

use std::sync::atomic::{AtomicU8, Ordering};

/// Vector instructions, the fewest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Instructions {
    /// What every processor of the architecture has.
    Baseline,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512F as well.
    Avx512,
}

/// The environment variable that keeps kernels to fewer instructions: `baseline` or `avx2`.
pub const INSTRUCTIONS_VARIABLE: &str = "SYNOD_INSTRUCTIONS";

const UNKNOWN: u8 = u8::MAX;
static CHOSEN: AtomicU8 = AtomicU8::new(UNKNOWN);

/// The instructions in use.
#[inline]
pub fn instructions() -> Instructions {
    match CHOSEN.load(Ordering::Relaxed) {
        0 => Instructions::Baseline,
        1 => Instructions::Avx2,
        2 => Instructions::Avx512,
        _ => limit_instructions(asked()),
    }
}

/// Uses at most these instructions from now on, in all threads; returns what is in use then.
pub fn limit_instructions(most: Instructions) -> Instructions {
    let chosen = most.min(available());
    CHOSEN.store(chosen as u8, Ordering::Relaxed);
    chosen
}

fn asked() -> Instructions {
    match std::env::var(INSTRUCTIONS_VARIABLE).as_deref() {
        Ok("baseline") => Instructions::Baseline,
        Ok("avx2") => Instructions::Avx2,
        _ => Instructions::Avx512,
    }
}

#[cfg(target_arch = "x86_64")]
fn available() -> Instructions {
    let avx2 = std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
    match avx2 && std::arch::is_x86_feature_detected!("avx512f") {
        true => Instructions::Avx512,
        false if avx2 => Instructions::Avx2,
        false => Instructions::Baseline,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn available() -> Instructions {
    Instructions::Baseline
}
