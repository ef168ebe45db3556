//! Session files that come with the program, for `node session create --preset NAME`.
//! They are ordinary session files; nothing treats a session that was made from one differently.

/// The presets by name.
pub const PRESETS: [(&str, &str); 3] = [
    ("tiny", include_str!("../presets/tiny.toml")),
    ("small", include_str!("../presets/small.toml")),
    ("synthetic", include_str!("../presets/synthetic.toml")),
];

/// The text of a preset.
pub fn preset(name: &str) -> Option<&'static str> {
    PRESETS.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::parse_session;
    use synod_protocol::identity::PeerId;

    #[test]
    fn every_preset_can_found_a_session() {
        for (name, text) in PRESETS {
            let file = parse_session(name, text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(file.name, name);
            file.found(PeerId([1; 32]), 0)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}
