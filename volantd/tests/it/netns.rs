//! Network namespaces for tests: each lives on a thread of its own and is gone with it. Never touches the machine's own network.

use std::future::Future;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::Command;
use std::sync::mpsc;
use std::thread;

use futures_util::TryStreamExt as _;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::runtime::Runtime;

type Job = Box<dyn FnOnce(&Runtime) + Send>;

/// Says that a test did not run, past the test runner, which would swallow what a test prints that passes.
pub(crate) fn skip(test: &str, why: &str) {
    drop(writeln!(std::io::stderr(), "SKIPPED {test}: {why}"));
}

/// Whether this test can make namespaces; says loudly when it cannot.
pub(crate) fn can_run(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    let allowed = root
        && thread::spawn(|| unshare(CloneFlags::CLONE_NEWNET).is_ok())
            .join()
            .unwrap();
    if !allowed {
        skip(
            test,
            "it needs root and the right to make network namespaces",
        );
    }
    allowed
}

/// Whether `nft` is there; says loudly when it is not.
pub(crate) fn has_nft(test: &str) -> bool {
    let found = nft_command().arg("--version").output().is_ok();
    if !found {
        skip(test, "there is no `nft` here");
    }
    found
}

fn nft_command() -> Command {
    let mut command = Command::new("nft");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// A network namespace with `lo` switched on.
pub(crate) struct Namespace {
    jobs: mpsc::Sender<Job>,
    fd: OwnedFd,
}

impl Namespace {
    pub(crate) fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (send_fd, fd) = mpsc::channel();
        thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let file = fs_err::File::open("/proc/thread-self/ns/net").unwrap();
            send_fd.send(OwnedFd::from(file.into_file())).unwrap();
            // One thread: whatever the runtime polls, it does so in this namespace.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            for job in queue {
                job(&runtime);
            }
        });
        let namespace = Self {
            jobs,
            fd: fd.recv().unwrap(),
        };
        namespace.run(|| async { set_up(&netlink(), "lo").await });
        namespace
    }

    /// Runs `work` in the namespace and waits for it.
    pub(crate) fn run<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> T
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        let (send, result) = mpsc::channel();
        let job: Job = Box::new(move |runtime| {
            drop(send.send(runtime.block_on(work())));
        });
        self.jobs.send(job).unwrap();
        result
            .recv()
            .unwrap_or_else(|_| panic!("the work in the namespace panicked: see above"))
    }

    /// Starts `work` in the namespace and does not wait: the result arrives at the receiver.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> mpsc::Receiver<T> {
        let (send, result) = mpsc::channel();
        self.run(move || async move {
            // A thread inherits the namespace of the thread that makes it.
            thread::spawn(move || drop(send.send(work())));
        });
        result
    }

    /// Connects `inner` in this namespace with `outer` in the other.
    pub(crate) fn cable(&self, inner: &'static str, other: &Self, outer: &'static str) {
        let fd = other.fd.as_raw_fd();
        self.run(move || async move {
            let handle = netlink();
            handle
                .link()
                .add(LinkVeth::new(inner, outer).build())
                .execute()
                .await
                .unwrap();
            let peer = index(&handle, outer).await;
            let message = LinkUnspec::new_with_index(peer).setns_by_fd(fd).build();
            handle.link().set(message).execute().await.unwrap();
        });
    }

    /// Gives an interface an address and switches it on.
    pub(crate) fn configure(&self, name: &'static str, address: Ipv4Addr, prefix: u8) {
        self.run(move || async move {
            let handle = netlink();
            let index = index(&handle, name).await;
            handle
                .address()
                .add(index, IpAddr::V4(address), prefix)
                .execute()
                .await
                .unwrap();
            set_up(&handle, name).await;
        });
    }

    /// Adds a route.
    pub(crate) fn route(&self, to: Ipv4Addr, prefix: u8, gateway: Ipv4Addr) {
        self.run(move || async move {
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to, prefix)
                .gateway(gateway)
                .build();
            netlink().route().add(route).execute().await.unwrap();
        });
    }

    /// Runs `nft` with a script on its standard input, or with arguments; answers what it printed.
    pub(crate) fn nft(&self, arguments: &'static [&'static str]) -> String {
        self.run(move || async move {
            let output = nft_command().args(arguments).output().unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    }

    /// Names of all interfaces, sorted.
    pub(crate) fn link_names(&self) -> Vec<String> {
        self.run(|| async {
            let mut names: Vec<String> = links().await.iter().map(name_of).collect();
            names.sort();
            names
        })
    }
}

/// A connection to netlink in the namespace of the current thread.
pub(crate) fn netlink() -> Handle {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    drop(tokio::spawn(connection));
    handle
}

pub(crate) async fn links() -> Vec<LinkMessage> {
    netlink()
        .link()
        .get()
        .execute()
        .try_collect()
        .await
        .unwrap()
}

pub(crate) fn name_of(link: &LinkMessage) -> String {
    use rtnetlink::packet_route::link::LinkAttribute;
    let name = |attribute: &LinkAttribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    };
    link.attributes.iter().find_map(name).unwrap_or_default()
}

pub(crate) async fn index(handle: &Handle, name: &str) -> u32 {
    let mut stream = Box::pin(handle.link().get().match_name(name).execute());
    stream.try_next().await.unwrap().unwrap().header.index
}

pub(crate) async fn set_up(handle: &Handle, name: &str) {
    let index = index(handle, name).await;
    handle
        .link()
        .set(LinkUnspec::new_with_index(index).up().build())
        .execute()
        .await
        .unwrap();
}
