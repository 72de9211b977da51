//! What Prometheus reads: in the right format, complete, within its dimensions, and as the documents and the dashboard say.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use common::api::{BootTimeline, SystemInfo, Vm};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use volantd::machine::ports::{BootSink as _, DiskUse};
use volantd::metrics::{CONTENT_TYPE, Metrics, OpenStream, Snapshot, Totals, VmUse};
use volantd::usage::{NetworkUse, OwnUse, ProcessUse};

use crate::daemon::Daemon;
use crate::guest_lab::Lab;
use crate::openmetrics::Scrape;

fn vm(name: &str, status: &str) -> Vm {
    serde_json::from_value(json!({
        "id": 1, "name": name, "status": status, "generation": 1, "runtime": "initramfs", "plugin": "hello",
        "ip_address": "192.168.127.10", "mac_address": "02:00:00:00:00:01", "cpu_cores": 1, "memory_mb": 64,
        "kernel_cmdline": "", "serial_log": "", "health": {"state": "healthy"},
        "restarts": {"vm": 2, "workload": 3}, "oom_kills": 4, "created_at": "", "updated_at": "",
    }))
    .unwrap()
}

fn snapshot(vms: Vec<Vm>, uses: Vec<(&str, VmUse)>) -> Snapshot {
    Snapshot {
        info: SystemInfo {
            status: "ok".to_owned(),
            version: "1.2.3".to_owned(),
            api_listen_addr: String::new(),
            api_advertise_addr: String::new(),
            host_ip: String::new(),
            hypervisor: "qemu".to_owned(),
            accelerator: "tcg".to_owned(),
            hypervisor_reason: "it is \"there\"\n".to_owned(),
        },
        uptime_s: 1.5,
        process: OwnUse {
            open_fds: Some(9),
            max_fds: Some(1024),
            resident_bytes: Some(4096),
            cpu_us: Some(1_500_000),
        },
        totals: Some(Totals {
            plugins: 3,
            artifacts: 2,
            artifact_bytes: 1024,
        }),
        vms,
        uses: uses
            .into_iter()
            .map(|(name, used)| (name.parse().unwrap(), used))
            .collect(),
    }
}

fn everything() -> VmUse {
    let disk = |name: &str| DiskUse {
        name: name.to_owned(),
        read_bytes: 6,
        write_bytes: 7,
        read_ops: 8,
        write_ops: 9,
    };
    VmUse {
        process: Some(ProcessUse {
            cpu_us: 2_500_000,
            memory_pss_bytes: Some(4096),
        }),
        network: Some(NetworkUse {
            rx_bytes: 1,
            tx_bytes: 2,
            rx_packets: 3,
            tx_packets: 4,
            rx_dropped: 5,
            tx_dropped: 6,
        }),
        disks: vec![disk("vda"), disk("vdc")],
    }
}

fn busy() -> Metrics {
    let metrics = Metrics::default();
    let took = Duration::from_millis(3);
    metrics.request("/api/v1/vms/{name}", "GET", 200, took);
    metrics.request("/api/v1/vms/{name}", "GET", 200, took);
    metrics.request("/api/v1/vms/{name}", "GET", 404, took);
    metrics.request("none", "BREW", 405, took);
    metrics.booted(&BootTimeline {
        vmm_ms: Some(20.0),
        kernel_ms: Some(30.0),
        pid1_ms: Some(60.0),
        workload_ms: None,
        ready_ms: Some(80.0),
    });
    metrics
}

#[test]
fn what_is_counted_and_measured_is_there() {
    let vms = vec![vm("web", "running"), vm("db", "stopped")];
    let text = busy().render(snapshot(vms, vec![("web", everything())]));
    let scrape = Scrape::parse(&text.unwrap());
    let table = [
        (
            "volant_build_info{version=\"1.2.3\",hypervisor=\"qemu\",accelerator=\"tcg\"}",
            1.0,
        ),
        ("volant_vms{status=\"running\"}", 1.0),
        ("volant_vms{status=\"crashed\"}", 0.0),
        ("volant_artifact_store_bytes", 1024.0),
        (
            "volant_api_requests_total{route=\"/api/v1/vms/{name}\",method=\"GET\",status=\"2xx\"}",
            2.0,
        ),
        (
            "volant_api_requests_total{route=\"none\",method=\"other\",status=\"4xx\"}",
            1.0,
        ),
        (
            "volant_api_request_duration_seconds_count{route=\"/api/v1/vms/{name}\",method=\"GET\"}",
            3.0,
        ),
        ("volant_boot_phase_seconds_sum{phase=\"ready\"}", 0.08),
        ("process_cpu_seconds_total", 1.5),
        ("volant_vm_up{vm=\"web\"}", 1.0),
        ("volant_vm_up{vm=\"db\"}", 0.0),
        ("volant_vm_cpu_seconds_total{vm=\"web\"}", 2.5),
        ("volant_vm_network_dropped_packets_total{vm=\"web\"}", 11.0),
        ("volant_vm_disk_writes_total{vm=\"web\"}", 18.0),
        ("volant_vm_restarts_total{vm=\"db\"}", 2.0),
    ];
    for (series, expected) in table {
        let value = scrape.get(series).unwrap_or(f64::NAN);
        assert!((value - expected).abs() < 1e-9, "{series} is {value}");
    }
    for unmeasured in [
        "volant_vm_memory_pss_bytes{vm=\"db\"}",
        "volant_vm_disk_reads_total{vm=\"db\"}",
        "volant_boot_phase_seconds_sum{phase=\"workload\"}",
    ] {
        assert_eq!(scrape.get(unmeasured), None, "{unmeasured}");
    }
}

#[test]
fn what_is_gone_or_not_known_has_no_series() {
    let metrics = busy();
    let render = |snapshot| metrics.render(snapshot).unwrap();
    let with = render(snapshot(vec![vm("web", "running")], Vec::new()));
    assert!(with.contains("{vm=\"web\"}"));
    let mut empty = snapshot(Vec::new(), Vec::new());
    empty.totals = None;
    empty.process = OwnUse::default();
    let without = render(empty);
    assert!(!without.contains("vm=\""), "{without}");
    let without = Scrape::parse(&without);
    assert_eq!(without.get("volant_plugins"), None);
    assert_eq!(without.stored(), Scrape::parse(&with).stored());
}

#[test]
fn a_thousand_vms_that_are_down_have_five_series_each() {
    let vms = (0..1000).map(|number| vm(&format!("vm-{number}"), "stopped"));
    let text = Metrics::default().render(snapshot(vms.collect(), Vec::new()));
    let scrape = Scrape::parse(&text.unwrap());
    let all = scrape.0.values().flat_map(|family| family.samples.keys());
    let (of_vms, others): (Vec<_>, Vec<_>) = all.partition(|series| series.contains("vm=\""));
    assert_eq!(of_vms.len(), 5000);
    assert!(others.len() < 30, "{others:?}");
}

#[test]
fn a_stream_is_open_until_it_is_dropped() {
    let metrics = Arc::new(Metrics::default());
    let open = || {
        let text = metrics.render(snapshot(Vec::new(), Vec::new())).unwrap();
        Scrape::parse(&text).get("volant_api_open_streams")
    };
    let stream = OpenStream::new(Arc::clone(&metrics));
    assert_eq!(open(), Some(1.0));
    drop(stream);
    assert_eq!(open(), Some(0.0));
}

async fn scrape(lab: &Lab) -> Scrape {
    let answer = lab.get("/metrics").await;
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], CONTENT_TYPE);
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    Scrape::parse(str::from_utf8(&body).unwrap())
}

#[tokio::test]
async fn a_running_vm_is_in_the_scrape_until_it_is_deleted() {
    let lab = Lab::new(Router::new()).await;
    let seen = scrape(&lab).await;
    assert_eq!(seen.get("volant_vm_up{vm=\"web\"}"), Some(1.0));
    assert_eq!(seen.get("volant_vms{status=\"running\"}"), Some(1.0));
    assert_eq!(seen.get("volant_plugins"), Some(1.0));
    let booted = "volant_boot_phase_seconds_count{phase=\"ready\"}";
    assert_eq!(seen.get(booted), Some(1.0));
    // The lab's VMM is this process.
    let cpu = seen.get("volant_vm_cpu_seconds_total{vm=\"web\"}");
    assert!(cpu.is_some_and(|seconds| seconds >= 0.0), "{cpu:?}");
    lab.cut_power();
    let gone = Request::delete("/api/v1/vms/web?wait=gone");
    let deleted = lab.call(gone.body(Body::empty()).unwrap()).await;
    assert!(deleted.status().is_success());
    let seen = scrape(&lab).await;
    let mut series = seen.0.values().flat_map(|family| family.samples.keys());
    assert!(!series.any(|series| series.contains("vm=\"web\"")));
    assert_eq!(seen.get("volant_vms{status=\"running\"}"), Some(0.0));
}

#[tokio::test]
async fn no_client_makes_series_of_its_own() {
    let lab = Lab::with_agent_at(9).await;
    for path in ["/api/v1/vms/vm-un", "/api/v1/vms/vm-deux", "/x/1", "/x/2"] {
        assert_eq!(lab.get(path).await.status(), 404);
    }
    let odd = Request::builder().method("BREW").uri("/api/v1/vms");
    let odd = lab.call(odd.body(Body::empty()).unwrap()).await;
    assert_eq!(odd.status(), 405);
    let seen = scrape(&lab).await;
    let count = |route: &str, method: &str| {
        let labels = format!("route=\"{route}\",method=\"{method}\",status=\"4xx\"");
        seen.get(&format!("volant_api_requests_total{{{labels}}}"))
    };
    assert_eq!(count("/api/v1/vms/{name}", "GET"), Some(2.0));
    assert_eq!(count("none", "GET"), Some(2.0));
    assert_eq!(count("/api/v1/vms", "other"), Some(1.0));
    for series in seen.0.values().flat_map(|family| family.samples.keys()) {
        for chosen in ["vm-un", "vm-deux", "/x/", "BREW"] {
            assert!(!series.contains(chosen), "{series}");
        }
    }
}

#[tokio::test]
async fn a_scrape_over_tcp_needs_the_token() {
    let lab = Lab::with_agent_at(9).await;
    let stream = tokio::net::TcpStream::connect(lab.api).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/metrics").header("host", "localhost");
    let answer = sender.send_request(request.body(Body::empty()).unwrap());
    assert_eq!(answer.await.unwrap().status(), 401);
}

fn document(path: &str) -> String {
    let docs = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs");
    fs_err::read_to_string(docs.join(path)).unwrap()
}

#[test]
fn a_daemon_without_vms_is_scraped() {
    let Some(daemon) = Daemon::start() else {
        return;
    };
    assert_eq!(daemon.call("GET", "/api/v1/vms", "").status, 200);
    let answer = daemon.call("GET", "/metrics", "");
    assert_eq!(answer.header("content-type").as_deref(), Some(CONTENT_TYPE));
    let scrape = Scrape::parse(&answer.body);
    let resident = scrape.get("process_resident_memory_bytes");
    assert!(resident.is_some_and(|bytes| bytes > 4096.0), "{resident:?}");
    let listed = "volant_api_request_duration_seconds_count{route=\"/api/v1/vms\",method=\"GET\"}";
    assert_eq!(scrape.get(listed), Some(1.0));
}

#[tokio::test]
async fn the_document_and_the_dashboard_have_what_the_daemon_has() {
    let lab = Lab::new(Router::new()).await;
    let scrape = scrape(&lab).await;
    let listed: BTreeSet<String> = document("metrics.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .map(str::to_owned)
        .collect();
    assert_eq!(listed, scrape.stored());
    let histograms = scrape.0.iter().filter(|(_, it)| it.kind == "histogram");
    let histograms: Vec<&String> = histograms.map(|(name, _)| name).collect();
    let family = |series: &str| {
        let of_it = |histogram: &&String| {
            let suffix = series.strip_prefix(histogram.as_str());
            suffix.is_some_and(|suffix| ["_bucket", "_sum", "_count"].contains(&suffix))
        };
        let histogram = histograms.iter().copied().find(of_it);
        histogram.cloned().unwrap_or_else(|| series.to_owned())
    };
    let shown: BTreeSet<String> = charted().iter().map(|series| family(series)).collect();
    assert_eq!(shown, scrape.stored());
}

/// All series that the dashboard asks for.
fn charted() -> BTreeSet<String> {
    let dashboard: Value = serde_json::from_str(&document("grafana/volant.json")).unwrap();
    let variable = &dashboard["templating"]["list"][1]["query"]["query"];
    assert_eq!(variable, "label_values(volant_vm_up, vm)");
    let mut ids = BTreeSet::new();
    let mut all = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        let is_new = ids.insert(panel["id"].as_u64().unwrap());
        assert!(is_new, "{title}: its id is taken");
        if panel["type"] == "row" {
            continue;
        }
        let before = all.len();
        for target in panel["targets"].as_array().unwrap() {
            let query = target["expr"].as_str().unwrap();
            let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let ours = ["volant_", "process_"];
            all.extend(
                words
                    .filter(|word| ours.iter().any(|prefix| word.starts_with(prefix)))
                    .map(str::to_owned),
            );
        }
        // Panels about the same numbers are fine, panels about none are not.
        let shows = panel["targets"].to_string();
        assert!(
            all.len() > before || shows.contains("volant_"),
            "{title} shows nothing"
        );
    }
    all
}
