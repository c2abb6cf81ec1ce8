//! A Rust lexer that knows just enough: where comments, strings and characters are, so that a check sees code only.

/// Source with each comment and the inside of each literal replaced by blanks, line breaks kept: every position and line
/// number still holds.
#[must_use]
pub fn code(text: &str) -> String {
    blank(text, false)
}

/// Like [`code`], but the insides of strings stay.
#[must_use]
pub fn code_and_strings(text: &str) -> String {
    blank(text, true)
}

fn blank(text: &str, keep_strings: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let (end, keep) = token(bytes, at);
        let keep = match keep {
            Keep::Code => true,
            Keep::Comment => false,
            Keep::Literal => keep_strings,
        };
        for &byte in &bytes[at..end] {
            out.push(if keep || byte == b'\n' { byte } else { b' ' });
        }
        at = end;
    }
    // Blanks replace whole tokens, and a token starts and ends at a character's boundary.
    String::from_utf8(out).expect("blanking whole tokens keeps UTF-8")
}

enum Keep {
    Code,
    Comment,
    Literal,
}

/// The end of the token that starts at `at`, and what it is. Code that is no literal comes one byte or one word at a time.
fn token(bytes: &[u8], at: usize) -> (usize, Keep) {
    let rest = &bytes[at..];
    if rest.starts_with(b"//") {
        let length = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
        return (at + length, Keep::Comment);
    }
    if rest.starts_with(b"/*") {
        return (at + block_comment(rest), Keep::Comment);
    }
    if is_word(rest[0]) {
        let length = rest.iter().position(|&byte| !is_word(byte)).unwrap_or(rest.len());
        if let b"r" | b"br" | b"cr" = &rest[..length]
            && let Some(raw) = raw_string(&rest[length..])
        {
            return (at + length + raw, Keep::Literal);
        }
        return (at + length, Keep::Code);
    }
    match rest[0] {
        b'"' => (at + quoted(rest, b'"'), Keep::Literal),
        b'\'' => character(rest).map_or((at + 1, Keep::Code), |length| (at + length, Keep::Literal)),
        _ => (at + 1, Keep::Code),
    }
}

/// Whether a byte belongs to a word; bytes beyond ASCII do, so that no character is cut.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

fn block_comment(rest: &[u8]) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn raw_string(rest: &[u8]) -> Option<usize> {
    let hashes = rest.iter().position(|&byte| byte != b'#')?;
    if rest[hashes] != b'"' {
        return None;
    }
    let mut close = vec![b'"'];
    close.resize(hashes + 1, b'#');
    let body = &rest[hashes + 1..];
    let end = body.windows(close.len()).position(|window| window == close)?;
    Some(hashes + 1 + end + close.len())
}

fn quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Length of a character literal, or `None` where the quote begins a lifetime.
fn character(rest: &[u8]) -> Option<usize> {
    if *rest.get(1)? == b'\\' {
        return Some(quoted(rest, b'\''));
    }
    let length = rest[1..].iter().take(5).position(|&byte| byte == b'\'')? + 2;
    let inside = std::str::from_utf8(&rest[1..length - 1]).ok()?;
    (inside.chars().count() == 1).then_some(length)
}

/// The words of one line of code.
pub fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split(|character: char| !(character.is_alphanumeric() || character == '_'))
        .filter(|word| !word.is_empty())
}

/// Index of the line behind the block that the first `{` at or after line `first` opens; `None` where `;` comes first or the
/// block never ends.
#[must_use]
pub fn block_end(lines: &[&str], first: usize) -> Option<usize> {
    let mut depth = 0_usize;
    // Brackets of all kinds count while we look for the body: `[u8; 4]` in a signature is no end of it.
    let mut brackets = 0_usize;
    for (index, line) in lines.iter().enumerate().skip(first) {
        for byte in line.bytes() {
            match byte {
                b'(' | b'[' => brackets += 1,
                b')' | b']' => brackets = brackets.saturating_sub(1),
                b'{' => depth += 1,
                b'}' => {
                    depth = depth.checked_sub(1)?;
                    if depth == 0 && brackets == 0 {
                        return Some(index + 1);
                    }
                }
                b';' if depth == 0 && brackets == 0 => return None,
                _ => {}
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_stays() {
        let check = |text: &str, expected: &str| {
            let found = code(text);
            assert_eq!(found.len(), text.len(), "positions hold: {text}");
            assert_eq!(found.split_whitespace().collect::<Vec<_>>().join(" "), expected, "of: {text}");
        };
        check("let a = 1; // unsafe", "let a = 1;");
        check("/* a /* nested */ unsafe */ b", "b");
        check(r#"f("unsafe \" still", x)"#, "f( , x)");
        check(r##"f(r#"unsafe " "#, x)"##, "f( , x)");
        check("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}");
        check(r"m('\'', '{', 'ä', b'}')", "m( , , , b )");
        check("let r = r#type;", "let r = r#type;");
        check("über();", "über();");
    }

    #[test]
    fn blocks_end_where_their_brace_closes() {
        let check = |text: &str, expected: Option<usize>| {
            let code = code(text);
            let lines: Vec<&str> = code.lines().collect();
            assert_eq!(block_end(&lines, 0), expected, "of: {text}");
        };
        check("fn f() {\n  g();\n}\nfn h() {}", Some(3));
        check("fn f();", None);
        check("fn f(x: [u8; 4]) {\n}", Some(2));
        check("fn f() {\n", None);
        check("fn f() { if a { b } }", Some(1));
    }
}
