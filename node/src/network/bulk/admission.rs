//! How many connections and handshakes the bulk plane has, and whether there is room for one more.
//! It knows no peer and closes nothing: the bulk task asks here before it begins one, and tells when it has ended.

use super::super::config::{BULK_CONNECTIONS, BULK_CONNECTIONS_OF_STRANGERS, BULK_TCP_HANDSHAKES};

/// By what a peer comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Quic,
    Tcp,
}

/// What is open now. Handshakes over TCP take no room of QUIC's: a flood of half-open ones must not keep members out.
#[derive(Debug, Default)]
pub(super) struct Admission {
    connections: usize,
    strangers: usize,
    quic_handshakes: usize,
    tcp_handshakes: usize,
}

impl Admission {
    /// Takes a place for a handshake; false where there is none.
    pub(super) fn begin(&mut self, door: Door) -> bool {
        let (handshakes, max) = match door {
            Door::Quic => (
                &mut self.quic_handshakes,
                BULK_CONNECTIONS.saturating_sub(self.connections),
            ),
            Door::Tcp => (&mut self.tcp_handshakes, BULK_TCP_HANDSHAKES),
        };
        let has_room = *handshakes < max && self.connections < BULK_CONNECTIONS;
        *handshakes += usize::from(has_room);
        has_room
    }

    /// A handshake has ended, well or not.
    pub(super) fn end(&mut self, door: Door) {
        match door {
            Door::Quic => self.quic_handshakes -= 1,
            Door::Tcp => self.tcp_handshakes -= 1,
        }
    }

    /// Whether so many shake hands over QUIC that an address must prove itself before it costs anything.
    pub(super) fn is_pressed(&self) -> bool {
        self.quic_handshakes > BULK_CONNECTIONS / 8
    }

    pub(super) fn is_full(&self) -> bool {
        self.connections >= BULK_CONNECTIONS
    }

    /// Counts a connection; false for a stranger's where there are too many of them.
    pub(super) fn connect(&mut self, stranger: bool) -> bool {
        if stranger && self.strangers >= BULK_CONNECTIONS_OF_STRANGERS {
            return false;
        }
        self.connections += 1;
        self.strangers += usize::from(stranger);
        true
    }

    /// A connection that was counted has ended.
    pub(super) fn disconnect(&mut self, stranger: bool) {
        self.connections -= 1;
        self.strangers -= usize::from(stranger);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_half_open_tcp_leaves_quic_its_room() {
        let mut admission = Admission::default();
        let flood = (0..2 * BULK_CONNECTIONS).filter(|_| admission.begin(Door::Tcp)).count();
        assert_eq!(flood, BULK_TCP_HANDSHAKES);
        let quic = (0..2 * BULK_CONNECTIONS)
            .filter(|_| admission.begin(Door::Quic))
            .count();
        assert_eq!(quic, BULK_CONNECTIONS);
        admission.end(Door::Tcp);
        assert!(admission.begin(Door::Tcp), "one that has ended makes room for another");
    }

    #[test]
    fn strangers_leave_room_for_members() {
        let mut admission = Admission::default();
        let strangers = (0..BULK_CONNECTIONS).filter(|_| admission.connect(true)).count();
        assert_eq!(strangers, BULK_CONNECTIONS_OF_STRANGERS);
        assert!(admission.connect(false) && admission.begin(Door::Quic));
        admission.disconnect(true);
        assert!(admission.connect(true));
    }

    #[test]
    fn a_full_table_takes_no_handshakes() {
        let mut admission = Admission::default();
        assert!((0..BULK_CONNECTIONS).all(|_| admission.connect(false)));
        assert!(admission.is_full() && !admission.begin(Door::Quic) && !admission.begin(Door::Tcp));
    }
}
