//! Which VMs of all a client wants to see, in which order: pure.

use std::cmp::Ordering;
use std::sync::Arc;

use common::api::{Vm, VmStatus};

/// What to order VMs by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SortKey {
    /// The name.
    Name,
    /// The status' word.
    Status,
    /// The runtime.
    Runtime,
    /// When it changed last.
    UpdatedAt,
    /// When it was created.
    #[default]
    CreatedAt,
}

/// Which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// The smallest, or oldest, first.
    #[default]
    Ascending,
    /// The greatest, or newest, first.
    Descending,
}

/// Which VMs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmFilter {
    /// Those with one of these; all if there is none.
    pub statuses: Vec<VmStatus>,
    /// Those with this runtime.
    pub runtime: Option<String>,
    /// Those of this plugin.
    pub plugin: Option<String>,
    /// Those whose name, address, runtime or plugin has this in it, in lower case.
    pub text: Option<String>,
    /// What to order by.
    pub sort: SortKey,
    /// Which way.
    pub order: Order,
    /// Leave out so many first.
    pub offset: usize,
    /// Then give so many; all if nothing.
    pub limit: Option<usize>,
}

impl VmFilter {
    /// The VMs of the wanted page, and how many there are on all pages.
    pub fn page(&self, mut vms: Vec<Arc<Vm>>) -> (Vec<Arc<Vm>>, usize) {
        vms.retain(|vm| self.wants(vm));
        let total = vms.len();
        let compare = |a: &Arc<Vm>, b: &Arc<Vm>| {
            let ordering = self.compare(a, b).then(a.id.cmp(&b.id));
            match self.order {
                Order::Ascending => ordering,
                Order::Descending => ordering.reverse(),
            }
        };
        let limit = self.limit.unwrap_or(usize::MAX);
        let end = self.offset.saturating_add(limit);
        if end < total {
            // What comes behind the page need not be in order: most of the time of a short page of many VMs.
            vms.select_nth_unstable_by(end, compare);
            vms.truncate(end);
        }
        vms.sort_unstable_by(compare);
        let page = vms.into_iter().skip(self.offset).collect();
        (page, total)
    }

    fn wants(&self, vm: &Vm) -> bool {
        let has = |text: &str| {
            [
                vm.name.as_str(),
                &vm.ip_address,
                &vm.runtime,
                vm.plugin.as_str(),
            ]
            .iter()
            .any(|field| field.to_lowercase().contains(text))
        };
        (self.statuses.is_empty() || self.statuses.contains(&vm.status))
            && self
                .runtime
                .as_ref()
                .is_none_or(|runtime| *runtime == vm.runtime)
            && self
                .plugin
                .as_ref()
                .is_none_or(|plugin| plugin == vm.plugin.as_str())
            && self.text.as_deref().is_none_or(has)
    }

    fn compare(&self, a: &Vm, b: &Vm) -> Ordering {
        match self.sort {
            SortKey::Name => a.name.cmp(&b.name),
            SortKey::Status => a.status.as_str().cmp(b.status.as_str()),
            SortKey::Runtime => a.runtime.cmp(&b.runtime),
            // The number is given in the order of creation; a clock may have been set back.
            SortKey::CreatedAt => a.id.cmp(&b.id),
            SortKey::UpdatedAt => time(&a.updated_at).cmp(&time(&b.updated_at)),
        }
    }
}

/// As text, times with and without fractions of a second would not sort.
fn time(text: &str) -> Option<jiff::Timestamp> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(id: i64, name: &str, status: &str, updated_at: &str) -> Vm {
        serde_json::from_value(serde_json::json!({
            "id": id, "name": name, "status": status, "generation": 1, "runtime": format!("rt-{name}"), "plugin": "caddy",
            "ip_address": format!("192.168.127.{}", id + 9), "mac_address": "", "cpu_cores": 1, "memory_mb": 1,
            "kernel_cmdline": "", "serial_log": "", "health": {"state": "unknown"}, "restarts": {"vm": 0, "workload": 0},
            "created_at": "2026-01-01T00:00:00Z", "updated_at": updated_at,
        }))
        .unwrap()
    }

    fn vms() -> Vec<Vm> {
        vec![
            vm(1, "web", "running", "2026-01-01T00:00:00.5Z"),
            vm(2, "db", "stopped", "2026-01-01T00:00:00Z"),
            vm(3, "cache", "running", "2026-01-01T00:00:01Z"),
        ]
    }

    fn names(filter: &VmFilter) -> (Vec<String>, usize) {
        let (page, total) = filter.page(vms().into_iter().map(Arc::new).collect());
        (page.iter().map(|vm| vm.name.to_string()).collect(), total)
    }

    #[test]
    fn vms_are_filtered() {
        let table = [
            (VmFilter::default(), vec!["web", "db", "cache"]),
            (
                VmFilter {
                    statuses: vec![VmStatus::Stopped, VmStatus::Failed],
                    ..VmFilter::default()
                },
                vec!["db"],
            ),
            (
                VmFilter {
                    runtime: Some("rt-web".to_owned()),
                    ..VmFilter::default()
                },
                vec!["web"],
            ),
            (
                VmFilter {
                    plugin: Some("caddy".to_owned()),
                    ..VmFilter::default()
                },
                vec!["web", "db", "cache"],
            ),
            (
                VmFilter {
                    plugin: Some("nginx".to_owned()),
                    ..VmFilter::default()
                },
                vec![],
            ),
            (
                VmFilter {
                    text: Some(".12".to_owned()),
                    ..VmFilter::default()
                },
                vec!["web", "db", "cache"],
            ),
            (
                VmFilter {
                    text: Some("127.12".to_owned()),
                    ..VmFilter::default()
                },
                vec!["cache"],
            ),
        ];
        for (filter, expected) in table {
            let (found, total) = names(&filter);
            assert_eq!(found, expected, "{filter:?}");
            assert_eq!(total, expected.len());
        }
    }

    #[test]
    fn vms_are_ordered() {
        let table = [
            (
                SortKey::CreatedAt,
                Order::Descending,
                ["cache", "db", "web"],
            ),
            (SortKey::Name, Order::Ascending, ["cache", "db", "web"]),
            (SortKey::Status, Order::Ascending, ["web", "cache", "db"]),
            (SortKey::Runtime, Order::Descending, ["web", "db", "cache"]),
            (SortKey::UpdatedAt, Order::Ascending, ["db", "web", "cache"]),
        ];
        for (sort, order, expected) in table {
            let filter = VmFilter {
                sort,
                order,
                ..VmFilter::default()
            };
            assert_eq!(names(&filter).0, expected, "{sort:?} {order:?}");
        }
    }

    #[test]
    fn pages_one_after_the_other_are_all_in_order() {
        let vms: Vec<Arc<Vm>> = (1..=50)
            .map(|id| {
                let name = format!("vm-{}", id * 37 % 50);
                Arc::new(vm(id, &name, "stopped", "2026-01-01T00:00:00Z"))
            })
            .collect();
        for (sort, order) in [
            (SortKey::CreatedAt, Order::Ascending),
            (SortKey::Name, Order::Descending),
            (SortKey::UpdatedAt, Order::Descending),
        ] {
            let of = |offset, limit| {
                let filter = VmFilter {
                    sort,
                    order,
                    offset,
                    limit,
                    ..VmFilter::default()
                };
                let (page, total) = filter.page(vms.clone());
                assert_eq!(total, 50);
                page.iter().map(|vm| vm.id).collect::<Vec<_>>()
            };
            let all = of(0, None);
            for size in [1, 7, 49, 50, 51] {
                let pages = (0..50).step_by(size).flat_map(|at| of(at, Some(size)));
                assert_eq!(pages.collect::<Vec<_>>(), all, "{sort:?} {order:?} {size}");
            }
            assert!(of(3, Some(0)).is_empty());
        }
    }

    #[test]
    fn a_page_knows_how_many_there_are() {
        let filter = VmFilter {
            offset: 1,
            limit: Some(1),
            ..VmFilter::default()
        };
        assert_eq!(names(&filter), (vec!["db".to_owned()], 3));
        let behind = VmFilter {
            offset: 7,
            ..VmFilter::default()
        };
        assert_eq!(names(&behind), (vec![], 3));
    }
}
