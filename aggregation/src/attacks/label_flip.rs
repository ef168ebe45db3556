//! Label flip: an attacker that follows the protocol to the letter, on data whose labels are wrong (Tolpegin et al. 2020,
//! ESORICS). It bends no vector; the trainer of a drill asks here which label to learn in place of the right one.

/// The label that an attacker trains on: the classes in reverse order.
///
/// # Panics
/// When the label is none of the classes.
pub fn flipped_label(label: usize, classes: usize) -> usize {
    assert!(label < classes, "a label is one of the classes");
    classes - 1 - label
}
