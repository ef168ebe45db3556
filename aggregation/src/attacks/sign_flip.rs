//! The sign flip: the update, pointed the other way (Li, Xu, Chen, Giannakis & Ling 2019, AAAI, RSA, §5).
//! It adapts to no rule; applied to the mean of the honest updates it is ByzFL's `SignFlipping`.

/// Replaces an honest update x by −x.
pub fn sign_flip(update: &mut [f32]) {
    for value in update {
        *value = -*value;
    }
}
