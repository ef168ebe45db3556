//! The bulk plane's two headers, fixed to the byte (docs/PROTOCOL.md): a request, and the answer before the bytes.
//! They carry no signature: the connection proves who asks, and the blob's id proves the bytes.

use synod_protocol::identity::BlobId;

/// Names the protocol in the TLS handshake.
pub(super) const ALPN: &[u8] = b"synod-blob/1";
const VERSION: u8 = 1;
/// Version, kind, blob id, offset, length.
pub(super) const REQUEST_BYTES: usize = 1 + 1 + 32 + 8 + 8;
/// Version, status, length of the whole blob.
pub(super) const ANSWER_BYTES: usize = 1 + 1 + 8;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The blob's bytes from `offset` on, `length` of them at most.
    Range,
    /// The hashes of the blob's groups; `offset` and `length` are zero.
    Tree,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) kind: Kind,
    pub(super) blob: BlobId,
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// How a request is answered; only `Ok` is followed by bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    NotFound,
    /// The asker may not fetch here.
    Denied,
    /// Too much is being served; ask again later.
    Busy,
    /// The request cannot be read or points behind the blob's end.
    BadRequest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: Status,
    pub(super) blob_length: u64,
}

impl Request {
    pub(super) fn to_bytes(self) -> [u8; REQUEST_BYTES] {
        let mut bytes = [0; REQUEST_BYTES];
        bytes[0] = VERSION;
        bytes[1] = match self.kind {
            Kind::Range => 0,
            Kind::Tree => 1,
        };
        bytes[2..34].copy_from_slice(&self.blob.0);
        bytes[34..42].copy_from_slice(&self.offset.to_le_bytes());
        bytes[42..50].copy_from_slice(&self.length.to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; REQUEST_BYTES]) -> Option<Self> {
        let kind = match (bytes[0], bytes[1]) {
            (VERSION, 0) => Kind::Range,
            (VERSION, 1) => Kind::Tree,
            _ => return None,
        };
        let blob = BlobId(bytes[2..34].try_into().ok()?);
        Some(Self {
            kind,
            blob,
            offset: number(&bytes[34..42])?,
            length: number(&bytes[42..50])?,
        })
    }
}

impl Answer {
    pub(super) fn to_bytes(self) -> [u8; ANSWER_BYTES] {
        let status = match self.status {
            Status::Ok => 0,
            Status::NotFound => 1,
            Status::Denied => 2,
            Status::Busy => 3,
            Status::BadRequest => 4,
        };
        let mut bytes = [0; ANSWER_BYTES];
        bytes[0] = VERSION;
        bytes[1] = status;
        bytes[2..].copy_from_slice(&self.blob_length.to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; ANSWER_BYTES]) -> Option<Self> {
        let status = match (bytes[0], bytes[1]) {
            (VERSION, 0) => Status::Ok,
            (VERSION, 1) => Status::NotFound,
            (VERSION, 2) => Status::Denied,
            (VERSION, 3) => Status::Busy,
            (VERSION, 4) => Status::BadRequest,
            _ => return None,
        };
        Some(Self {
            status,
            blob_length: number(&bytes[2..])?,
        })
    }
}

fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_read_back() {
        for kind in [Kind::Range, Kind::Tree] {
            let request = Request {
                kind,
                blob: BlobId([5; 32]),
                offset: 1 << 40,
                length: u64::MAX,
            };
            assert_eq!(Request::from_bytes(&request.to_bytes()), Some(request));
        }
        for status in [
            Status::Ok,
            Status::NotFound,
            Status::Denied,
            Status::Busy,
            Status::BadRequest,
        ] {
            let answer = Answer {
                status,
                blob_length: 77,
            };
            assert_eq!(Answer::from_bytes(&answer.to_bytes()), Some(answer));
        }
    }

    #[test]
    fn other_versions_and_kinds_are_refused() {
        let mut bytes = Request {
            kind: Kind::Range,
            blob: BlobId([0; 32]),
            offset: 0,
            length: 1,
        }
        .to_bytes();
        bytes[1] = 9;
        assert_eq!(Request::from_bytes(&bytes), None);
        assert_eq!(Answer::from_bytes(&[2; ANSWER_BYTES]), None);
    }
}
