//! Shell patterns over bytes, for `find --name`: `*`, `?`, `[a-z]`, `[!a-z]`, `\x`. Pure.

/// Whether all of `name` matches `pattern`. Time is at most |pattern| · |name|: only the last `*` is ever gone back to.
pub(crate) fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            retry = Some((p, n));
            continue;
        }
        if let Some(length) = one(&pattern[p..], name[n]) {
            p += length;
            n += 1;
            continue;
        }
        let Some((after_star, from)) = retry else { return false };
        p = after_star;
        n = from + 1;
        retry = Some((after_star, n));
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// Length of the pattern's first element where it matches `byte`.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match *pattern.first()? {
        b'?' => Some(1),
        b'\\' if pattern.len() > 1 => (pattern[1] == byte).then_some(2),
        b'[' => match class(pattern) {
            Some((length, set)) => set(byte).then_some(length),
            None => (byte == b'[').then_some(1),
        },
        literal => (literal == byte).then_some(1),
    }
}

/// A class `[…]`: its length and what it holds; `None` where it isn't closed.
fn class(pattern: &[u8]) -> Option<(usize, impl Fn(u8) -> bool + '_)> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let start = if negated { 2 } else { 1 };
    // A `]` that comes first is a member.
    let end = pattern.iter().skip(start + 1).position(|byte| *byte == b']')? + start + 1;
    let members = &pattern[start..end];
    let holds = move |byte: u8| {
        let mut index = 0;
        while index < members.len() {
            let range_end = if members.get(index + 1) == Some(&b'-') { members.get(index + 2) } else { None };
            match range_end {
                Some(last) if (members[index]..=*last).contains(&byte) => return !negated,
                Some(_) => index += 3,
                None if members[index] == byte => return !negated,
                None => index += 1,
            }
        }
        negated
    };
    Some((end + 1, holds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("*", "", true),
            ("*", "anything", true),
            ("*.rs", "main.rs", true),
            ("*.rs", "main.rsx", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b", false),
            ("?", "", false),
            ("??", "ab", true),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]]", "]", true),
            ("[", "[", true),
            ("[ab", "[ab", true),
            ("[a-]", "-", true),
            (r"\*", "*", true),
            (r"\*", "x", false),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes()), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn hostile_patterns_end_soon() {
        let name = vec![b'a'; 255];
        let pattern = b"a*".repeat(120);
        assert!(!matches(&[&pattern[..], b"b"].concat(), &name));
    }
}
