//! The network on real kernels, in namespaces of its own: what is made, what is left alone, what is gone afterwards, who reaches whom.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use futures_util::TryStreamExt as _;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::{LinkBridge, LinkUnspec, LinkVeth};
use volantd::machine::ports::{Lease, Network as _};
use volantd::net::{LinuxNetwork, NetConfig, NetError};

use super::netns::{Namespace, can_run, has_nft, index, links, name_of, netlink, set_up};

const BRIDGE: &str = "vbr0";
const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 10);
/// TEST-NET-3 (RFC 5737): the world outside, as the test has it.
const HOST_OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const FORGED: Ipv4Addr = Ipv4Addr::new(10, 9, 9, 9);

/// How long an answer is waited for that must come, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long an answer is waited for that must not come: longer than the kernel's first repetition of a SYN (1 s).
const DOUBT: Duration = Duration::from_millis(1_300);

fn network() -> LinuxNetwork {
    LinuxNetwork::new(NetConfig {
        bridge: BRIDGE.to_owned(),
        subnet: "192.168.127.0/24".parse().unwrap(),
        host_ip: HOST,
        api_ports: vec![7777],
    })
    .unwrap()
}

fn lease(number: u8, tap: &str) -> Lease {
    Lease {
        ip: Ipv4Addr::new(192, 168, 127, number),
        mac: format!("02:00:00:00:00:{number:02x}"),
        tap: tap.to_owned(),
        cid: u32::from(number),
    }
}

async fn link(name: &str) -> Option<LinkMessage> {
    links().await.into_iter().find(|link| name_of(link) == name)
}

fn controller(link: &LinkMessage) -> Option<u32> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Controller(index) => Some(*index),
            _ => None,
        })
}

fn is_tun(link: &LinkMessage) -> bool {
    let tun = LinkInfo::Kind(InfoKind::Tun);
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&tun),
        _ => false,
    })
}

/// Address and MAC of all permanent entries on the bridge.
async fn pinned() -> Vec<(Ipv4Addr, Vec<u8>)> {
    let handle = netlink();
    let bridge = index(&handle, BRIDGE).await;
    let request = handle
        .neighbours()
        .get()
        .set_address_family(AddressFamily::Inet);
    let all: Vec<NeighbourMessage> = request.execute().try_collect().await.unwrap();
    let own = |entry: &&NeighbourMessage| {
        entry.header.ifindex == bridge && entry.header.state == NeighbourState::Permanent
    };
    let mut found = Vec::new();
    for entry in all.iter().filter(own) {
        let address = entry
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some(*address),
                _ => None,
            });
        let mac = entry
            .attributes
            .iter()
            .find_map(|attribute| match attribute {
                NeighbourAttribute::LinkLayerAddress(mac) => Some(mac.clone()),
                _ => None,
            });
        found.push((address.unwrap(), mac.unwrap()));
    }
    found.sort();
    found
}

async fn addresses_of(name: &str) -> Vec<(Ipv4Addr, u8)> {
    let handle = netlink();
    let index = index(&handle, name).await;
    let request = handle.address().get().set_link_index_filter(index);
    let all: Vec<_> = request.execute().try_collect().await.unwrap();
    let mut found: Vec<(Ipv4Addr, u8)> = all
        .iter()
        .filter_map(|message| {
            use rtnetlink::packet_route::address::AddressAttribute;
            message
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    AddressAttribute::Local(IpAddr::V4(address)) => {
                        Some((*address, message.header.prefix_len))
                    }
                    _ => None,
                })
        })
        .collect();
    found.sort();
    found
}

#[test]
fn it_is_made_once_and_removed_whole() {
    let name = "it_is_made_once_and_removed_whole";
    if !can_run(name) || !has_nft(name) {
        return;
    }
    let host = Namespace::new();
    host.nft(&["add table ip other; add chain ip other c { type filter hook forward priority 5; }; add rule ip other c counter accept"]);
    let (links_before, rules_before) = (host.link_names(), host.nft(&["list", "ruleset"]));

    let first = host.run(|| async {
        network().ensure().await.unwrap();
        link(BRIDGE).await.unwrap()
    });
    let rules = host.nft(&["list", "ruleset"]);
    let second = host.run(|| async {
        network().ensure().await.unwrap();
        link(BRIDGE).await.unwrap()
    });
    assert_eq!(first.header.index, second.header.index);
    assert!(second.header.flags.contains(LinkFlags::Up));
    assert_eq!(
        rules,
        host.nft(&["list", "ruleset"]),
        "a second start changes no rule"
    );
    assert!(
        rules.contains("table inet volant") && rules.contains(rules_before.trim()),
        "{rules}"
    );
    assert_eq!(host.run(|| addresses_of(BRIDGE)), [(HOST, 24)]);
    let forwarding =
        host.run(|| async { fs_err::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap() });
    assert_eq!(forwarding.trim(), "1");

    host.run(|| async {
        let network = network();
        network.attach(&lease(10, "vttap-web")).await.unwrap();
        for _ in 0..2 {
            network.remove_all().await.unwrap();
        }
    });
    assert_eq!(host.link_names(), links_before);
    assert_eq!(host.nft(&["list", "ruleset"]), rules_before);
}

#[test]
fn a_vm_is_attached_and_detached() {
    let name = "a_vm_is_attached_and_detached";
    if !can_run(name) || !has_nft(name) {
        return;
    }
    Namespace::new().run(|| async {
        let network = network();
        network.ensure().await.unwrap();
        let web = lease(10, "vttap-web");
        for _ in 0..2 {
            network.attach(&web).await.unwrap();
        }
        let bridge = link(BRIDGE).await.unwrap();
        let tap = link("vttap-web").await.unwrap();
        assert_eq!(controller(&tap), Some(bridge.header.index));
        assert!(tap.header.flags.contains(LinkFlags::Up));
        assert!(is_tun(&tap), "{tap:?}");
        let guest_mac = vec![0x02, 0, 0, 0, 0, 10];
        let own_mac = LinkAttribute::Address(guest_mac.clone());
        assert!(
            !tap.attributes.contains(&own_mac),
            "the tap's own MAC is not the guest's"
        );
        assert_eq!(pinned().await, [(GUEST, guest_mac)]);

        for _ in 0..2 {
            network.detach(&web).await.unwrap();
        }
        assert!(link("vttap-web").await.is_none());
        assert_eq!(pinned().await, []);
    });
}

#[test]
fn a_bridge_of_others_is_corrected_and_stays() {
    let name = "a_bridge_of_others_is_corrected_and_stays";
    if !can_run(name) || !has_nft(name) {
        return;
    }
    let host = Namespace::new();
    host.run(|| async {
        let handle = netlink();
        handle
            .link()
            .add(LinkBridge::new(BRIDGE).build())
            .execute()
            .await
            .unwrap();
        let bridge = index(&handle, BRIDGE).await;
        let own = Ipv4Addr::new(10, 1, 2, 3);
        for (address, prefix) in [(HOST, 16), (own, 8)] {
            handle
                .address()
                .add(bridge, IpAddr::V4(address), prefix)
                .execute()
                .await
                .unwrap();
        }
        let network = network();
        network.ensure().await.unwrap();
        assert_eq!(addresses_of(BRIDGE).await, [(own, 8), (HOST, 24)]);
        assert!(
            link(BRIDGE)
                .await
                .unwrap()
                .header
                .flags
                .contains(LinkFlags::Up)
        );
        network.attach(&lease(10, "vttap-web")).await.unwrap();
        network.remove_all().await.unwrap();
        assert!(link(BRIDGE).await.is_some(), "volantd did not make it");
        assert!(link("vttap-web").await.is_none());
        assert_eq!(pinned().await, []);
    });
}

#[test]
fn what_is_somebody_elses_is_refused_and_left_alone() {
    let name = "what_is_somebody_elses_is_refused_and_left_alone";
    if !can_run(name) || !has_nft(name) {
        return;
    }
    let host = Namespace::new();
    host.run(|| async {
        let handle = netlink();
        handle
            .link()
            .add(LinkVeth::new(BRIDGE, "peer").build())
            .execute()
            .await
            .unwrap();
        let refused = network().ensure().await.unwrap_err();
        assert!(
            matches!(&refused, NetError::NotABridge { name } if name == BRIDGE),
            "{refused:?}"
        );
        handle
            .link()
            .del(index(&handle, BRIDGE).await)
            .execute()
            .await
            .unwrap();
        let _gone = handle;

        let handle = netlink();
        handle
            .link()
            .add(LinkVeth::new("lan0", "lan1").build())
            .execute()
            .await
            .unwrap();
        let lan = index(&handle, "lan0").await;
        handle
            .address()
            .add(lan, IpAddr::V4(HOST), 24)
            .execute()
            .await
            .unwrap();
        let refused = network().ensure().await.unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("192.168.127.1 of the interface `lan0`"),
            "{refused}"
        );
        assert!(link(BRIDGE).await.is_none(), "nothing is half made");
    });
    assert_eq!(host.nft(&["list", "ruleset"]), "");
}

#[test]
fn without_nft_there_is_no_bridge_either() {
    if !can_run("without_nft_there_is_no_bridge_either") {
        return;
    }
    Namespace::new().run(|| async {
        let refused = network()
            .with_nft("/nonexistent/nft")
            .ensure()
            .await
            .unwrap_err();
        assert!(
            matches!(refused, NetError::NftMissing { .. }),
            "{refused:?}"
        );
        assert!(
            link(BRIDGE).await.is_none(),
            "guests must never be connected without the rules"
        );
    });
}

#[test]
fn a_tap_whose_name_is_taken_is_refused() {
    let name = "a_tap_whose_name_is_taken_is_refused";
    if !can_run(name) || !has_nft(name) {
        return;
    }
    Namespace::new().run(|| async {
        let handle = netlink();
        handle
            .link()
            .add(LinkVeth::new("vttap-web", "peer").build())
            .execute()
            .await
            .unwrap();
        let network = network();
        // Nobody called `ensure`: the bridge is made on the way.
        let refused = network.attach(&lease(10, "vttap-web")).await.unwrap_err();
        assert!(
            refused
                .message
                .contains("`vttap-web` exists and is not a tap"),
            "{}",
            refused.message
        );
        network.detach(&lease(10, "vttap-web")).await.unwrap();
        assert!(link("vttap-web").await.is_some());
        assert_eq!(pinned().await, []);
    });
}

#[test]
fn reconciling_removes_what_nobody_owns() {
    let name = "reconciling_removes_what_nobody_owns";
    if !can_run(name) || !has_nft(name) {
        return;
    }
    Namespace::new().run(|| async {
        let network = network();
        let (web, lost, old) = (
            lease(10, "vttap-web"),
            lease(11, "vttap-lost"),
            lease(12, "vttap-old"),
        );
        for lease in [&web, &lost, &old] {
            network.attach(lease).await.unwrap();
        }
        let handle = netlink();
        // As `ip link set nomaster` does: the VM runs and its cable is pulled.
        for tap in ["vttap-lost", "vttap-old"] {
            let message = LinkUnspec::new_with_index(index(&handle, tap).await)
                .nocontroller()
                .build();
            handle.link().set(message).execute().await.unwrap();
        }
        handle
            .link()
            .add(LinkVeth::new("admin0", "admin1").build())
            .execute()
            .await
            .unwrap();
        let bridge = index(&handle, BRIDGE).await;
        let message = LinkUnspec::new_with_index(index(&handle, "admin0").await)
            .controller(bridge)
            .build();
        handle.link().set(message).execute().await.unwrap();

        let done = network
            .reconcile(&[web.clone(), lost.clone()])
            .await
            .unwrap();
        assert_eq!(done.removed_taps, ["vttap-old"]);
        assert_eq!(done.reconnected_taps, ["vttap-lost"]);
        assert_eq!(done.removed_neighbours, [old.ip]);
        assert_eq!(controller(&link("vttap-lost").await.unwrap()), Some(bridge));
        assert!(
            link("admin0").await.is_some(),
            "only taps with our prefix are ours"
        );
        let kept: Vec<Ipv4Addr> = pinned()
            .await
            .into_iter()
            .map(|(address, _)| address)
            .collect();
        assert_eq!(kept, [web.ip, lost.ip]);

        let again = network.reconcile(&[web, lost]).await.unwrap();
        assert_eq!(again, volantd::net::Reconciled::default());
    });
}

fn connect(to: Ipv4Addr, port: u16, wait: Duration) -> io::Result<SocketAddr> {
    TcpStream::connect_timeout(&SocketAddr::from((to, port)), wait)?.local_addr()
}

/// Accepts connections for ever, in a thread that ends with the test process.
fn listen(namespace: &Namespace, port: u16) -> std::sync::mpsc::Receiver<io::Result<SocketAddr>> {
    let (send, peers) = std::sync::mpsc::channel();
    let ready = namespace.start(move || TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    let listener = ready.recv().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            if send
                .send(stream.and_then(|stream| stream.peer_addr()))
                .is_err()
            {
                return;
            }
        }
    });
    peers
}

/// Whether a datagram from `source` in `guest` arrives outside.
fn datagram_arrives(
    guest: &Namespace,
    outside: &Namespace,
    source: Ipv4Addr,
    wait: Duration,
) -> bool {
    let socket = outside
        .start(|| UdpSocket::bind((OUTSIDE, 5000)).unwrap())
        .recv()
        .unwrap();
    socket.set_read_timeout(Some(wait)).unwrap();
    let sent = guest.start(move || {
        UdpSocket::bind((source, 0)).and_then(|socket| socket.send_to(b"hello", (OUTSIDE, 5000)))
    });
    assert_eq!(sent.recv().unwrap().unwrap(), 5);
    socket.recv(&mut [0; 16]).is_ok()
}

/// One echo request and its answer (RFC 792).
fn ping(to: Ipv4Addr) -> bool {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto,
        setsockopt, socket, sockopt,
    };
    use std::os::fd::AsRawFd as _;
    let icmp = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::empty(),
        SockProtocol::Icmp,
    )
    .unwrap();
    let patience = nix::sys::time::TimeVal::new(0, 700_000);
    setsockopt(&icmp, sockopt::ReceiveTimeout, &patience).unwrap();
    // Type 8, code 0, checksum of these eight bytes, identifier 1, sequence 1.
    let request = [8, 0, 0xf7, 0xfd, 0, 1, 0, 1];
    let address = SockaddrIn::from(std::net::SocketAddrV4::new(to, 0));
    sendto(icmp.as_raw_fd(), &request, &address, MsgFlags::empty()).unwrap();
    let mut answer = [0; 128];
    // The IP header without options has 20 bytes; type 0 is the answer.
    recv(icmp.as_raw_fd(), &mut answer, MsgFlags::empty())
        .is_ok_and(|length| length >= 28 && answer[20] == 0)
}

/// A host with a bridge, a guest on it, and a machine in the world outside.
fn three_machines() -> (Namespace, Namespace, Namespace) {
    let (host, guest, outside) = (Namespace::new(), Namespace::new(), Namespace::new());
    host.cable("wan0", &outside, "eth0");
    host.cable("port0", &guest, "eth0");
    host.run(|| async {
        network().ensure().await.unwrap();
        let handle = netlink();
        let bridge = index(&handle, BRIDGE).await;
        let message = LinkUnspec::new_with_index(index(&handle, "port0").await)
            .controller(bridge)
            .build();
        handle.link().set(message).execute().await.unwrap();
        set_up(&handle, "port0").await;
        // The reverse path filter would drop forged packets as well; what is tested here are the rules.
        for interface in ["all", BRIDGE, "wan0"] {
            fs_err::write(
                format!("/proc/sys/net/ipv4/conf/{interface}/rp_filter"),
                "0",
            )
            .unwrap();
        }
    });
    host.configure("wan0", HOST_OUTSIDE, 24);
    outside.configure("eth0", OUTSIDE, 24);
    outside.route(Ipv4Addr::new(192, 168, 127, 0), 24, HOST_OUTSIDE);
    guest.configure("eth0", GUEST, 24);
    guest.configure("lo", FORGED, 32);
    guest.route(Ipv4Addr::UNSPECIFIED, 0, HOST);
    (host, guest, outside)
}

#[test]
fn guests_reach_the_world_but_not_the_host() {
    let name = "guests_reach_the_world_but_not_the_host";
    if !can_run(name) || !has_nft(name) {
        return;
    }
    let (host, guest, outside) = three_machines();
    let _api = listen(&host, 7777);
    let _other = listen(&host, 9999);
    let _service = listen(&guest, 80);
    let web = listen(&outside, 80);

    let from_guest = |to, port, wait| guest.start(move || connect(to, port, wait)).recv().unwrap();
    // Out: yes, and the world sees the host's address.
    from_guest(OUTSIDE, 80, PATIENCE).unwrap();
    assert_eq!(
        web.recv_timeout(PATIENCE).unwrap().unwrap().ip(),
        IpAddr::V4(HOST_OUTSIDE)
    );
    assert!(
        guest.start(|| ping(HOST)).recv().unwrap(),
        "the gateway answers a ping"
    );
    // The host reaches the guest's service; the world does not.
    host.start(|| connect(GUEST, 80, PATIENCE))
        .recv()
        .unwrap()
        .unwrap();
    assert!(
        outside
            .start(|| connect(GUEST, 80, DOUBT))
            .recv()
            .unwrap()
            .is_err()
    );
    // No service of the host, by none of its addresses.
    for (address, port) in [
        (HOST, 7777),
        (HOST, 9999),
        (HOST_OUTSIDE, 7777),
        (HOST_OUTSIDE, 9999),
    ] {
        assert!(
            from_guest(address, port, DOUBT).is_err(),
            "{address}:{port}"
        );
    }
    assert!(datagram_arrives(&guest, &outside, GUEST, PATIENCE));
    assert!(!datagram_arrives(&guest, &outside, FORGED, DOUBT));

    // The same without the rules: it was they, and not the test, that kept the guest out.
    host.nft(&["delete", "table", "inet", "volant"]);
    from_guest(HOST, 7777, PATIENCE).unwrap();
    from_guest(HOST_OUTSIDE, 9999, PATIENCE).unwrap();
    assert!(datagram_arrives(&guest, &outside, FORGED, PATIENCE));
}
