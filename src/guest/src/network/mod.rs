//! The machine's one interface: up, with the address that the configuration or the network gives it. Names of servers, times and
//! routes that a network offers beside an address are not taken.

mod dhcp;
mod lease;
mod netlink;

use std::net::Ipv4Addr;
use std::path::Path;

use casemate::config::{NetworkMode, NetworkSection};

pub use lease::Lease;

use crate::failure::{Failure, What};
use crate::machine::Tree;
use netlink::Routes;

/// An interface as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Interface {
    name: String,
    index: u32,
    hardware: [u8; 6],
}

/// An address with its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Assigned {
    address: Ipv4Addr,
    prefix: u8,
    gateway: Option<Ipv4Addr>,
}

/// Brings the network up. With DHCP the lease comes back, which must be kept.
///
/// # Errors
/// [`What::Network`] without the interface, [`What::Dhcp`] without an answer.
pub fn start(section: &NetworkSection) -> Result<Option<Lease>, Failure> {
    let tree = Tree::at(Path::new("/"));
    let mut routes = Routes::open().map_err(|error| no_network("the kernel's routes", &error))?;
    let own = interface(&tree, "lo")?;
    routes
        .up(own.index)
        .map_err(|error| no_network("lo", &error))?;
    let interface = interface(&tree, &section.interface)?;
    routes
        .up(interface.index)
        .map_err(|error| no_network(&interface.name, &error))?;
    let (assigned, lease) = match (section.mode, section.address) {
        (NetworkMode::Static, Some(address)) => {
            let assigned = Assigned {
                address: address.address,
                prefix: address.prefix,
                gateway: section.gateway,
            };
            (assigned, None)
        }
        _ => {
            let lease = Lease::ask(interface.clone())?;
            (lease.assigned(), Some(lease))
        }
    };
    routes
        .assign(interface.index, &assigned)
        .map_err(|error| no_network(&interface.name, &error))?;
    Ok(lease)
}

fn no_network(what: &str, error: &std::io::Error) -> Failure {
    let hint =
        "start the machine with one virtio network device, and compare [network] with its network";
    Failure::new(What::Network, format!("{what}: {error}"), hint)
}

fn interface(tree: &Tree, name: &str) -> Result<Interface, Failure> {
    let folder = format!("/sys/class/net/{name}");
    let found = || {
        let index = tree
            .attribute(&format!("{folder}/ifindex"))
            .ok()?
            .parse()
            .ok()?;
        let hardware = hardware_address(&tree.attribute(&format!("{folder}/address")).ok()?)?;
        let name = name.to_owned();
        Some(Interface {
            name,
            index,
            hardware,
        })
    };
    found().ok_or_else(|| {
        let found = format!("there is no interface {name}");
        Failure::new(
            What::Network,
            found,
            "write [network] `interface` as the machine has it: eth0",
        )
    })
}

/// Six bytes as sysfs writes them.
fn hardware_address(text: &str) -> Option<[u8; 6]> {
    let mut bytes = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut bytes {
        let part = parts.next().filter(|part| part.len() == 2)?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_has_six_bytes() {
        assert_eq!(
            hardware_address("52:54:00:12:34:56"),
            Some([0x52, 0x54, 0, 0x12, 0x34, 0x56])
        );
        for wrong in [
            "",
            "52:54:00:12:34",
            "52:54:00:12:34:56:78",
            "5254:00:12:34:56",
            "zz:54:00:12:34:56",
            "+1:54:00:12:34:56x",
        ] {
            assert_eq!(hardware_address(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let failure = interface(&Tree::at(folder.path()), "eth7").unwrap_err();
        assert_eq!(failure.what(), What::Network);
        assert!(failure.to_string().contains("eth7"));
    }
}
