//! The addresses of a name, tried one after another: `localhost` may be `::1` first and the server listen on `127.0.0.1` only.
//!
//! ```text
//! found ─► next ─► (refused) ─► next ─► … ─► none left: the link is down
//!            └─► opened, or given up by the core: an address that kept silent comes last the next time
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::core::LinkNumber;

/// Addresses of the links that are being opened.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    links: BTreeMap<LinkNumber, Trying>,
    /// Of each name the address that kept silent last; as many as there are names among the endpoints and nodes.
    silent: BTreeMap<Arc<str>, SocketAddr>,
}

#[derive(Debug)]
struct Trying {
    name: Arc<str>,
    has_several: bool,
    now: Option<SocketAddr>,
    /// The next one is the last.
    left: Vec<SocketAddr>,
}

impl Addresses {
    /// A name was looked up for `link`.
    pub(crate) fn found(&mut self, link: LinkNumber, name: Arc<str>, mut found: Vec<SocketAddr>) {
        found.truncate(TRIED_MAX);
        if let Some(silent) = self.silent.get(&name)
            && let Some(at) = found.iter().position(|address| address == silent)
        {
            let silent = found.remove(at);
            found.push(silent);
        }
        found.reverse();
        let has_several = found.len() > 1;
        self.links.insert(link, Trying { name, has_several, now: None, left: found });
    }

    /// The next address to be tried; `None` when there is none left.
    pub(crate) fn next(&mut self, link: LinkNumber) -> Option<SocketAddr> {
        let trying = self.links.get_mut(&link)?;
        trying.now = trying.left.pop();
        if trying.now.is_none() {
            self.links.remove(&link);
        }
        self.links.get(&link)?.now
    }

    /// The link is open.
    pub(crate) fn opened(&mut self, link: LinkNumber) {
        if let Some(trying) = self.links.remove(&link)
            && self.silent.get(&trying.name) == trying.now.as_ref()
        {
            self.silent.remove(&trying.name);
        }
    }

    /// The core waits no longer for the link.
    pub(crate) fn given_up(&mut self, link: LinkNumber) {
        if let Some(Trying { name, has_several: true, now: Some(silent), .. }) = self.links.remove(&link) {
            self.silent.insert(name, silent);
        }
    }
}

/// Addresses of one name that are tried, at most.
const TRIED_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn tried(addresses: &mut Addresses, link: LinkNumber) -> Vec<u16> {
        std::iter::from_fn(|| addresses.next(link)).map(|address| address.port()).collect()
    }

    #[test]
    fn each_address_has_its_turn() {
        let mut addresses = Addresses::default();
        let name: Arc<str> = Arc::from("several");
        let found = vec![address(1), address(2), address(3)];
        let links: Vec<LinkNumber> = (0..4).map(LinkNumber).collect();
        addresses.found(links[0], Arc::clone(&name), found.clone());
        assert_eq!(tried(&mut addresses, links[0]), [1, 2, 3]);
        assert_eq!(addresses.next(links[0]), None);
        // The first keeps silent until the core gives the link up.
        addresses.found(links[1], Arc::clone(&name), found.clone());
        assert_eq!(addresses.next(links[1]), Some(address(1)));
        addresses.given_up(links[1]);
        addresses.found(links[2], Arc::clone(&name), found.clone());
        assert_eq!(tried(&mut addresses, links[2]), [2, 3, 1]);
        addresses.found(links[3], name, found);
        assert_eq!(addresses.next(links[3]), Some(address(2)));
        addresses.opened(links[3]);
        assert!(addresses.links.is_empty());
        addresses.found(links[3], Arc::from("none"), Vec::new());
        assert_eq!(addresses.next(links[3]), None);
        assert!(addresses.links.is_empty());
    }
}
