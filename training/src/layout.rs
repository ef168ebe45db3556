//! The map of a flat parameter slice: names, shapes, offsets and roles of its tensors, and a digest of the whole.
//! It holds no numbers of the model; optimizers and decay route by role, never by name or shape.

use std::ops::Range;

use synod_aggregation::TensorShape;

/// What a tensor is for. Optimizers, weight decay and (later) μP route by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Token vectors that are looked up by row. With tied embeddings they are the head, too.
    Embedding,
    /// The output matrix over the vocabulary, where it is not tied.
    Head,
    /// A matrix between hidden layers.
    HiddenMatrix,
    /// A vector that scales activations (RMSNorm's weight).
    Gain,
    /// A single trainable number or a plain vector with no structure.
    Scalar,
}

impl Role {
    /// Whether weight decay pulls these parameters to zero: matrices and embeddings yes; gains and scalars no, because
    /// zero is not a neutral value for them.
    pub fn is_decayed(self) -> bool {
        matches!(self, Self::Embedding | Self::Head | Self::HiddenMatrix)
    }

    fn code(self) -> u8 {
        match self {
            Self::Embedding => 0,
            Self::Head => 1,
            Self::HiddenMatrix => 2,
            Self::Gain => 3,
            Self::Scalar => 4,
        }
    }
}

/// One tensor's place in the flat slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlace {
    /// Its name, as in an exported model.
    pub name: String,
    /// Its sizes, row-major, outermost first.
    pub shape: Vec<usize>,
    /// Index of its first element in the flat slice.
    pub offset: usize,
    /// What it is for.
    pub role: Role,
}

impl TensorPlace {
    /// Number of its elements.
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its elements' indices in the flat slice.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.count()
    }
}

/// All tensors of a model, in flat order, without gaps.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    places: Vec<TensorPlace>,
    len: usize,
}

impl Layout {
    /// A layout without tensors; see [`Layout::with`].
    pub fn new() -> Self {
        Self::default()
    }

    /// The tensors as rows of equal length, for encodings that look at matrices: all dimensions but the last are rows.
    pub fn tensor_shapes(&self) -> Vec<TensorShape> {
        let of = |place: &TensorPlace| {
            let columns = place.shape.last().copied().unwrap_or(1).max(1);
            TensorShape {
                rows: u32::try_from(place.count() / columns).expect("fewer rows than the largest model has"),
                columns: u32::try_from(columns).expect("a row is shorter than the largest model's"),
            }
        };
        self.places.iter().map(of).collect()
    }

    /// Appends a tensor after the last one.
    pub fn with(mut self, name: impl Into<String>, shape: &[usize], role: Role) -> Self {
        let place = TensorPlace {
            name: name.into(),
            shape: shape.to_vec(),
            offset: self.len,
            role,
        };
        self.len += place.count();
        self.places.push(place);
        self
    }

    /// The tensors, in flat order.
    pub fn places(&self) -> &[TensorPlace] {
        &self.places
    }

    /// Parameters in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// BLAKE3 of the canonical bytes: two members with equal digests mean the same number by the same index.
    pub fn digest(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("synod training layout v1");
        hasher.update(&(self.places.len() as u64).to_le_bytes());
        for place in &self.places {
            hasher.update(&(place.name.len() as u64).to_le_bytes());
            hasher.update(place.name.as_bytes());
            hasher.update(&[place.role.code()]);
            hasher.update(&(place.shape.len() as u64).to_le_bytes());
            for size in &place.shape {
                hasher.update(&(*size as u64).to_le_bytes());
            }
        }
        *hasher.finalize().as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_lie_one_after_the_other() {
        let layout = Layout::new()
            .with("a", &[2, 3], Role::Embedding)
            .with("b", &[4], Role::Gain)
            .with("c", &[1], Role::Scalar);
        let ranges: Vec<_> = layout.places().iter().map(TensorPlace::range).collect();
        assert_eq!(ranges, [0..6, 6..10, 10..11]);
        assert_eq!(layout.len(), 11);
    }

    #[test]
    fn the_digest_tells_names_shapes_and_roles_apart() {
        let digest = |name: &str, shape: &[usize], role| Layout::new().with(name, shape, role).digest();
        let first = digest("a", &[2, 3], Role::HiddenMatrix);
        assert_eq!(first, digest("a", &[2, 3], Role::HiddenMatrix));
        assert_ne!(first, digest("b", &[2, 3], Role::HiddenMatrix));
        assert_ne!(first, digest("a", &[3, 2], Role::HiddenMatrix));
        assert_ne!(first, digest("a", &[2, 3], Role::Head));
    }
}
