//! Cuts long plain text into pieces that can stand on either side of the held-out split, as documents do.
//! It cuts at ends of lines that the text itself chooses, so that a passage which two institutions share is mostly cut
//! alike, whatever stands before it (content-defined chunking, as in Muthitacharoen et al., LBFS, 2001).

/// A line ends a piece with this chance, once the piece is long enough.
const ONE_LINE_IN: u64 = 8;
/// A piece is at most this many times its least length.
const MOST_TIMES_LEAST: usize = 8;

/// Collects lines into pieces.
#[derive(Debug)]
pub struct PieceCutter {
    least: usize,
    pending: String,
}

impl PieceCutter {
    /// A cutter of pieces of `least` to eight times as many bytes; only the last may be shorter.
    pub fn new(least: usize) -> Self {
        Self {
            least: least.max(8),
            pending: String::new(),
        }
    }

    /// Takes some text, cut anywhere between characters but best at ends of lines, and hands out the pieces that are full.
    pub fn push(&mut self, text: &str, out: &mut Vec<String>) {
        for line in text.split_inclusive('\n') {
            self.push_line(line, out);
        }
    }

    fn push_line(&mut self, mut line: &str, out: &mut Vec<String>) {
        let most = self.least * MOST_TIMES_LEAST;
        while self.pending.len() + line.len() > most {
            let (head, tail) = line.split_at(line.floor_char_boundary(most - self.pending.len()));
            self.pending.push_str(head);
            out.push(std::mem::take(&mut self.pending));
            line = tail;
        }
        self.pending.push_str(line);
        if self.pending.len() >= self.least && line.ends_with('\n') && mark(line).is_multiple_of(ONE_LINE_IN) {
            out.push(std::mem::take(&mut self.pending));
        }
    }

    /// The rest.
    pub fn finish(self, out: &mut Vec<String>) {
        if !self.pending.is_empty() {
            out.push(self.pending);
        }
    }
}

fn mark(line: &str) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(line.as_bytes()).as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(text: &str) -> Vec<String> {
        let (mut cutter, mut out) = (PieceCutter::new(64), Vec::new());
        cutter.push(text, &mut out);
        cutter.finish(&mut out);
        out
    }

    #[test]
    fn pieces_keep_every_byte_and_their_bounds() {
        let text: String = (0..500).map(|i| format!("line {} of a poem\n", i * i)).collect();
        let pieces = cut(&text);
        assert_eq!(pieces.concat(), text);
        let (last, others) = pieces.split_last().unwrap();
        assert!(others.len() > 30 && last.len() <= 512);
        assert!(others.iter().all(|piece| (64..=512).contains(&piece.len())));
        let one_line = "é".repeat(2000);
        let pieces = cut(&one_line);
        assert_eq!(pieces.concat(), one_line);
        assert!(pieces.iter().all(|piece| piece.len() <= 512));
    }

    #[test]
    fn a_shared_passage_is_cut_alike_behind_different_beginnings() {
        let shared: String = (0..500).map(|i| format!("verse {} is shared\n", i * 7919)).collect();
        let (one, other) = (cut(&shared), cut(&format!("a preface\nof two lines\n{shared}")));
        let common = one.iter().filter(|piece| other.contains(piece)).count();
        assert!(common * 10 > one.len() * 8, "{common} of {}", one.len());
    }
}
