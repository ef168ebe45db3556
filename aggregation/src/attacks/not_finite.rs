//! Vectors of infinities or of NaN, which destroy rules that compare before they check. Decoding refuses both, so these
//! are for drills of the decoder and of rules that are fed by hand.

/// All infinite.
pub fn infinity(update: &mut [f32]) {
    update.fill(f32::INFINITY);
}

/// Not a number, everywhere.
pub fn not_a_number(update: &mut [f32]) {
    update.fill(f32::NAN);
}
