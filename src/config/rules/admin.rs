//! What is between the keys of the admin endpoint and those of others.

use super::super::model::{Admin, is_local};
use super::super::problem::{Path, Problems, show};
use super::super::tree::Node;
use super::Taken;
use crate::net::addr::Bind;

/// Checks the section. `taken` is what listeners bind, `owner` the listener of an entry of it.
pub(super) fn check<'n>(
    admin: &'n Node<'n>,
    taken: &Taken,
    owner: &dyn Fn(usize) -> &'n str,
    path: &Path<'_>,
    problems: &mut Problems,
) {
    if !admin.is_map() {
        return;
    }
    let node = admin.get("bind");
    let text =
        node.map_or(Some(Admin::default().bind.to_string()), |node| node.text().map(str::to_owned));
    let Some(bind) = text.and_then(|text| Bind::parse(&text).ok()) else { return };
    let pos = node.map_or(admin.pos, |node| node.pos);
    for address in bind.addresses() {
        if let Some(other) = taken.clash(&address) {
            problems.add(pos, &path.key("bind"), || {
                format!("{address} is taken by listener {}", show(owner(other)))
            });
            break;
        }
    }
    let is_reached = bind.addresses().iter().any(|address| !is_local(address));
    if is_reached && admin.get("token_file").is_none() {
        problems.add(pos, &path.key("token_file"), || {
            "the key is missing; whoever reaches an address that is neither loopback nor a unix \
             socket could command this process: name a file with a token, or bind 127.0.0.1:9900"
                .into()
        });
    }
}
