//! Text for people: names that can't harm a terminal, sizes, rates and times. Pure.

pub(crate) mod size;
pub(crate) mod time;

use std::fmt::Write as _;

/// A name as it can be shown in a message: as it is where it is plain text, else in the `$'…'` form that shells read back.
pub(crate) fn quote(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(text) if !text.is_empty() && !text.chars().any(char::is_control) => text.to_owned(),
        _ => escape(name),
    }
}

/// A name as a shell reads it back: as it is where that is safe, else quoted.
pub(crate) fn shell(name: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+,:=@%".contains(byte);
    match std::str::from_utf8(name) {
        Ok(text) if !name.is_empty() && name.iter().all(is_plain) => text.to_owned(),
        Ok(text) if !text.chars().any(char::is_control) => format!("'{}'", text.replace('\'', r"'\''")),
        _ => escape(name),
    }
}

/// `$'…'` with everything outside printable text escaped.
fn escape(name: &[u8]) -> String {
    let mut out = String::from("$'");
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\n' => out.push_str("\\n"),
                '\t' => out.push_str("\\t"),
                '\r' => out.push_str("\\r"),
                '\\' => out.push_str("\\\\"),
                '\'' => out.push_str("\\'"),
                c if c.is_control() => {
                    let mut bytes = [0; 4];
                    c.encode_utf8(&mut bytes).bytes().for_each(|byte| push_hex(&mut out, byte));
                }
                c => out.push(c),
            }
        }
        chunk.invalid().iter().for_each(|byte| push_hex(&mut out, *byte));
    }
    out.push('\'');
    out
}

fn push_hex(out: &mut String, byte: u8) {
    write!(out, "\\x{byte:02x}").expect("a string takes everything");
}

/// `1 file`, `2 files`.
pub(crate) fn count(number: u64, singular: &str) -> String {
    let plural = match (number, singular.strip_suffix('y')) {
        (1, _) => singular.to_owned(),
        (_, Some(stem)) => format!("{stem}ies"),
        (_, None) => format!("{singular}s"),
    };
    format!("{} {plural}", size::grouped(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names_stay_and_others_can_be_pasted() {
        for (name, shown) in [
            (&b"a b.txt"[..], "a b.txt"),
            ("größe".as_bytes(), "größe"),
            (b"a\nb", r"$'a\nb'"),
            (b"\x1b[31m", r"$'\x1b[31m'"),
            (b"it's\xff", r"$'it\'s\xff'"),
            (b"", "$''"),
            ("\u{85}".as_bytes(), r"$'\xc2\x85'"),
        ] {
            assert_eq!(quote(name), shown);
        }
    }

    #[test]
    fn a_shell_reads_back_what_is_printed() {
        for (name, shown) in [
            (&b"/srv/demo-1/endpoint"[..], "/srv/demo-1/endpoint"),
            (b"/my demo/x", "'/my demo/x'"),
            (b"it's", r"'it'\''s'"),
            (b"$(ls)", "'$(ls)'"),
            ("größe".as_bytes(), "'größe'"),
            (b"a\nb", r"$'a\nb'"),
            (b"", "''"),
        ] {
            assert_eq!(shell(name), shown);
        }
    }

    #[test]
    fn counts_have_their_plural() {
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(0, "entry"), "0 entries");
        assert_eq!(count(12_345, "directory"), "12,345 directories");
    }
}
