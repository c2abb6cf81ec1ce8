//! `chmod`'s modes: octal, or the symbolic form (`u+x,go-w`, `a=rX`). Pure.

use std::str::FromStr;

/// A change of permission bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ModeChange {
    /// `0644`: exactly these bits.
    Exact(u32),
    /// `u+x,go-w`: clauses in order.
    Symbolic(Vec<Clause>),
}

/// One clause of a symbolic mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Clause {
    /// Which of user (4), group (2), others (1).
    who: u8,
    operator: Operator,
    /// Of `rwx`, as one octal digit.
    bits: u32,
    /// `X`: execute where it is a directory or somebody may execute already.
    execute_if_any: bool,
    /// `s`.
    set_id: bool,
    /// `t`.
    sticky: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Add,
    Remove,
    Assign,
}

impl ModeChange {
    /// The bits after the change.
    pub(crate) fn apply(&self, mode: u32, directory: bool) -> u32 {
        match self {
            Self::Exact(bits) => *bits,
            Self::Symbolic(clauses) => {
                clauses.iter().fold(mode, |mode, clause| clause.apply(mode, directory))
            }
        }
    }
}

impl Clause {
    fn apply(self, mode: u32, directory: bool) -> u32 {
        let executable = self.execute_if_any && (directory || mode & 0o111 != 0);
        let bits = self.bits | u32::from(executable);
        let (mut set, mut mask) = (0, 0);
        for (flag, shift, set_id) in [(4, 6, 0o4000), (2, 3, 0o2000), (1, 0, 0)] {
            if self.who & flag != 0 {
                set |= bits << shift | if self.set_id { set_id } else { 0 };
                // As in coreutils, assigning leaves a directory's set-id bits alone unless they are named.
                mask |= 0o7 << shift | if directory && !self.set_id { 0 } else { set_id };
            }
        }
        if self.sticky {
            set |= 0o1000;
        }
        if self.who == 7 && (!directory || self.sticky) {
            mask |= 0o1000;
        }
        match self.operator {
            Operator::Add => mode | set,
            Operator::Remove => mode & !set,
            Operator::Assign => mode & !mask | set,
        }
    }
}

impl FromStr for ModeChange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expectation = || format!("`{text}` is no mode; write for example 644, u+x or go-w,a+r");
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            let bits = u32::from_str_radix(text, 8).map_err(|_| expectation())?;
            return if bits <= 0o7777 { Ok(Self::Exact(bits)) } else { Err(expectation()) };
        }
        let mut clauses = Vec::new();
        for part in text.split(',') {
            parse_clauses(part, &mut clauses).ok_or_else(expectation)?;
        }
        Ok(Self::Symbolic(clauses))
    }
}

/// `who (operator bits)+`.
fn parse_clauses(part: &str, clauses: &mut Vec<Clause>) -> Option<()> {
    let actions = part.find(['+', '-', '='])?;
    let who = part[..actions].chars().try_fold(0, |who, letter| {
        Some(
            who | match letter {
                'u' => 4,
                'g' => 2,
                'o' => 1,
                'a' => 7,
                _ => return None,
            },
        )
    })?;
    let mut rest = &part[actions..];
    while let Some(sign) = rest.chars().next() {
        let operator = match sign {
            '+' => Operator::Add,
            '-' => Operator::Remove,
            _ => Operator::Assign,
        };
        let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
        let mut clause = Clause {
            who: if who == 0 { 7 } else { who },
            operator,
            bits: 0,
            execute_if_any: false,
            set_id: false,
            sticky: false,
        };
        for letter in rest[1..end].chars() {
            match letter {
                'r' => clause.bits |= 4,
                'w' => clause.bits |= 2,
                'x' => clause.bits |= 1,
                'X' => clause.execute_if_any = true,
                's' => clause.set_id = true,
                't' => clause.sticky = true,
                _ => return None,
            }
        }
        clauses.push(clause);
        rest = &rest[end..];
    }
    Some(())
}

/// `drwxr-xr-x`, as `ls -l` shows it; `kind` is its first letter.
pub(crate) fn letters(kind: char, mode: u32) -> String {
    let mut out = String::with_capacity(10);
    out.push(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_in_coreutils() {
        for (text, before, directory, after) in [
            ("644", 0o777, false, 0o644),
            ("0", 0o777, false, 0),
            ("u+x", 0o644, false, 0o744),
            ("go-w,a+r", 0o622, false, 0o644),
            ("a=rX", 0o600, false, 0o444),
            ("a=rX", 0o700, false, 0o555),
            ("a=rX", 0o600, true, 0o555),
            ("+x", 0o644, false, 0o755),
            ("u=rw,go=", 0o777, false, 0o600),
            ("u+s", 0o755, false, 0o4755),
            ("+t", 0o755, true, 0o1755),
            ("ug-s", 0o6755, false, 0o755),
            ("u=rwx", 0o4700, false, 0o700),
            ("u=rwx", 0o4700, true, 0o4700),
            ("u+r-w", 0o200, false, 0o400),
        ] {
            let change: ModeChange = text.parse().expect(text);
            assert_eq!(format!("{:o}", change.apply(before, directory)), format!("{after:o}"), "{text}");
        }
    }

    #[test]
    fn what_is_no_mode_is_refused() {
        for text in ["", "8", "77777", "u", "u~x", "z+x", "u+q", "u+x,", "+x,,"] {
            assert!(text.parse::<ModeChange>().is_err(), "{text}");
        }
    }

    #[test]
    fn letters_as_in_ls() {
        assert_eq!(letters('-', 0o644), "-rw-r--r--");
        assert_eq!(letters('d', 0o1777), "drwxrwxrwt");
        assert_eq!(letters('-', 0o4644), "-rwSr--r--");
        assert_eq!(letters('-', 0o6755), "-rwsr-sr-x");
    }
}
