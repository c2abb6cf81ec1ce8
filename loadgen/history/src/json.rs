//! As much of JSON as a line of a history needs: whole numbers, text, lists, and one object around them. Total on any bytes.

use std::borrow::Cow;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Number(u64),
    Text(Cow<'a, str>),
    List(Vec<Value<'a>>),
}

impl Value<'_> {
    pub(crate) fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(_) | Self::List(_) => None,
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Number(_) | Self::List(_) => None,
        }
    }

    pub(crate) fn list(&self) -> Option<&[Self]> {
        match self {
            Self::List(list) => Some(list),
            Self::Number(_) | Self::Text(_) => None,
        }
    }
}

/// A line is no such object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// The fields of an object, in order. `fields` is cleared first, and used again from line to line.
pub(crate) fn object<'a>(
    line: &'a str,
    fields: &mut Vec<(Cow<'a, str>, Value<'a>)>,
) -> Result<(), Malformed> {
    fields.clear();
    let mut parser = Parser { text: line, at: 0 };
    parser.expect(b'{')?;
    if !parser.take(b'}') {
        loop {
            let name = parser.string()?;
            parser.expect(b':')?;
            let value = parser.value(0)?;
            fields.push((name, value));
            if !parser.take(b',') {
                break;
            }
        }
        parser.expect(b'}')?;
    }
    parser.blanks();
    if parser.at == line.len() { Ok(()) } else { Err(Malformed) }
}

/// Lists in lists of lists are the deepest that a history has.
const DEPTH_MAX: u32 = 3;

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    /// Whether `byte` comes next, blanks apart; it is passed then.
    fn take(&mut self, byte: u8) -> bool {
        self.blanks();
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    fn expect(&mut self, byte: u8) -> Result<(), Malformed> {
        if self.take(byte) { Ok(()) } else { Err(Malformed) }
    }

    fn value(&mut self, depth: u32) -> Result<Value<'a>, Malformed> {
        self.blanks();
        match self.peek() {
            Some(b'"') => Ok(Value::Text(self.string()?)),
            Some(b'0'..=b'9') => Ok(Value::Number(self.number()?)),
            Some(b'[') if depth < DEPTH_MAX => {
                self.at += 1;
                let mut list = Vec::new();
                if self.take(b']') {
                    return Ok(Value::List(list));
                }
                loop {
                    list.push(self.value(depth + 1)?);
                    if !self.take(b',') {
                        break;
                    }
                }
                self.expect(b']')?;
                Ok(Value::List(list))
            }
            _ => Err(Malformed),
        }
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.text[start..self.at].parse().map_err(|_| Malformed)
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Malformed> {
        self.expect(b'"')?;
        let start = self.at;
        // Both bytes are ASCII, so the text is cut at characters.
        while !matches!(self.peek(), None | Some(b'"' | b'\\')) {
            self.at += 1;
        }
        let plain = &self.text[start..self.at];
        if self.peek() == Some(b'"') {
            self.at += 1;
            return Ok(Cow::Borrowed(plain));
        }
        let mut owned = plain.to_owned();
        loop {
            let rest = self.text.get(self.at..).ok_or(Malformed)?;
            let character = rest.chars().next().ok_or(Malformed)?;
            self.at += character.len_utf8();
            match character {
                '"' => return Ok(Cow::Owned(owned)),
                '\\' => owned.push(self.escape()?),
                character => owned.push(character),
            }
        }
    }

    /// Behind a backslash.
    fn escape(&mut self) -> Result<char, Malformed> {
        let byte = self.peek().ok_or(Malformed)?;
        self.at += 1;
        Ok(match byte {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let digits = self.text.get(self.at..self.at + 4).ok_or(Malformed)?;
                self.at += 4;
                let code = u32::from_str_radix(digits, 16).map_err(|_| Malformed)?;
                // Halves of pairs aren't written: what lies beyond 16 bits stands as it is.
                char::from_u32(code).ok_or(Malformed)?
            }
            _ => return Err(Malformed),
        })
    }
}

/// Writes text in quotes.
pub(crate) fn push_text(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend([b'\\', byte]),
            0..0x20 => {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                let digit = |nibble: u8| DIGITS[usize::from(nibble)];
                out.extend([b'\\', b'u', b'0', b'0', digit(byte >> 4), digit(byte & 15)]);
            }
            byte => out.push(byte),
        }
    }
    out.push(b'"');
}

/// Writes a number.
pub(crate) fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + u8::try_from(number % 10).expect("a digit");
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend(&digits[first..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_read() {
        let check = |line: &str, expected: Option<&str>| {
            let mut fields = Vec::new();
            let found = object(line, &mut fields).ok().map(|()| format!("{fields:?}"));
            assert_eq!(found.as_deref(), expected, "{line}");
        };
        check("{}", Some("[]"));
        check(r#" {"a" : 1 , "b":"x"} "#, Some(r#"[("a", Number(1)), ("b", Text("x"))]"#));
        check(r#"{"a":[[1,"b"],[]]}"#, Some(r#"[("a", List([List([Number(1), Text("b")]), List([])]))]"#));
        check(r#"{"a":"\"\\\u0041\n"}"#, Some(r#"[("a", Text("\"\\A\n"))]"#));
        for wrong in [
            "",
            "{",
            "[]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":-1}",
            "{\"a\":1.5}",
            "{\"a\":true}",
            "{\"a\":1}x",
            "{\"a\":18446744073709551616}",
            "{\"a\":\"",
            "{\"a\":\"\\",
            "{\"a\":\"\\u12\"}",
            "{\"a\":\"\\ud800\"}",
            "{\"a\":[1}",
            "{\"a\":[[[[1]]]]}",
            "{\"a\":\"\\ü\"}",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for text in ["", "plain", "qu\"ote\\", "\u{1}\n\u{1f}", "größe \u{1F600}"] {
            let mut line = b"{\"t\":".to_vec();
            push_text(&mut line, text);
            line.push(b'}');
            let line = String::from_utf8(line).expect("text");
            let mut fields = Vec::new();
            assert_eq!(object(&line, &mut fields), Ok(()));
            assert_eq!(fields[0].1.text(), Some(text));
        }
        for number in [0, 9, 10, 1_234_567_890, u64::MAX] {
            let mut out = Vec::new();
            push_number(&mut out, number);
            assert_eq!(String::from_utf8(out).expect("digits"), number.to_string());
        }
    }
}
