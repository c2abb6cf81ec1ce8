//! `chown`'s owners: `USER`, `USER:GROUP`, `:GROUP`; numbers, or names from this machine's `/etc/passwd` and `/etc/group`.

use std::path::Path;

use crate::failure::{Exit, Failure, Result};

/// Owner and group to set; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// The user's number.
    pub(crate) uid: Option<u32>,
    /// The group's number.
    pub(crate) gid: Option<u32>,
}

impl Owner {
    /// Reads an argument, looking names up on this machine.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let (user, group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text, None),
        };
        if user.is_empty() && group.is_none_or(str::is_empty) {
            return Err(Failure::usage(text, "no owner is named").next("write USER, USER:GROUP or :GROUP"));
        }
        let find = |name: &str, file: &str, what: &str| -> Result<Option<u32>> {
            if name.is_empty() {
                return Ok(None);
            }
            if let Ok(number) = name.parse() {
                return Ok(Some(number));
            }
            if name.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(Failure::usage(
                    name,
                    format!("is no {what}'s number: those end at {}", u32::MAX),
                )
                .next("write USER, USER:GROUP or :GROUP"));
            }
            let table =
                std::fs::read_to_string(file).map_err(|error| Failure::path(Path::new(file), &error))?;
            match lookup(&table, name) {
                Some(number) => Ok(Some(number)),
                None => Err(Failure::new(
                    Exit::NotFound,
                    name,
                    format!("this machine knows no {what} of that name"),
                )
                .next("write its number: the server keeps numbers only")),
            }
        };
        Ok(Self {
            uid: find(user, "/etc/passwd", "user")?,
            gid: find(group.unwrap_or(""), "/etc/group", "group")?,
        })
    }
}

/// The number behind a name in the `name:password:number:…` lines of `/etc/passwd` and `/etc/group`.
fn lookup(table: &str, name: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_numbers_or_names() {
        assert_eq!(Owner::parse("7").ok(), Some(Owner { uid: Some(7), gid: None }));
        assert_eq!(Owner::parse("7:8").ok(), Some(Owner { uid: Some(7), gid: Some(8) }));
        assert_eq!(Owner::parse(":8").ok(), Some(Owner { uid: None, gid: Some(8) }));
        assert_eq!(Owner::parse("4294967296").map_err(|failure| failure.exit), Err(Exit::Usage));
        assert!(Owner::parse("").is_err());
        assert!(Owner::parse(":").is_err());
    }

    #[test]
    fn names_are_looked_up() {
        let table = "root:x:0:0:root:/root:/bin/sh\nada:x:1001:\nbroken\n";
        assert_eq!(lookup(table, "ada"), Some(1001));
        assert_eq!(lookup(table, "broken"), None);
        assert_eq!(lookup(table, "nobody"), None);
    }
}
