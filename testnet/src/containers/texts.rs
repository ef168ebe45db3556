//! A text for each institution: parts of what this machine holds anyway, as the demo collects it.
//! What is there stays.

use std::fs;
use std::path::Path;

use super::ContainerError;
use crate::demo;

/// Makes the folders `1` to `count` below `texts`, each with a text of its own, where they are missing.
pub fn prepare_texts(texts: &Path, count: usize) -> Result<(), ContainerError> {
    let folder = |number: usize| texts.join(number.to_string());
    if (1..=count).all(|number| folder(number).exists()) {
        return Ok(());
    }
    let collected = texts.join("collected");
    let institutions = demo::prepare(&collected, |_| ())?;
    let parts = count.div_ceil(institutions.len());
    for number in 1..=count {
        let institution = &institutions[(number - 1) % institutions.len()];
        let text = text_of(&institution.folder)?;
        let part = (number - 1) / institutions.len();
        let (from, to) = (text.len() * part / parts, text.len() * (part + 1) / parts);
        let piece = &text[text.ceil_char_boundary(from)..text.ceil_char_boundary(to)];
        let (target, file) = (folder(number), folder(number).join("text.txt"));
        fs::create_dir_all(&target).map_err(ContainerError::io("make", &target))?;
        fs::write(&file, piece).map_err(ContainerError::io("write", &file))?;
    }
    fs::remove_dir_all(&collected).map_err(ContainerError::io("remove", &collected))
}

fn text_of(folder: &Path) -> Result<String, ContainerError> {
    let entries = fs::read_dir(folder).map_err(ContainerError::io("read", folder))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut all = String::new();
    for path in paths {
        all += &fs::read_to_string(&path).map_err(ContainerError::io("read", &path))?;
    }
    Ok(all)
}
