//! Reads what a scrape gives as strictly as the format says (`OpenMetrics` 1.0, "Text Format"), with no code of the daemon's.

use std::collections::{BTreeMap, BTreeSet};

/// Every label that there may be; another one is another dimension of series.
const LABELS: [&str; 9] = [
    "route",
    "method",
    "status",
    "phase",
    "vm",
    "le",
    "version",
    "hypervisor",
    "accelerator",
];

/// One family as it stands in the text.
#[derive(Debug, Default)]
pub(crate) struct Family {
    pub(crate) kind: String,
    /// Name with labels, and value.
    pub(crate) samples: BTreeMap<String, f64>,
}

/// All families, by their names.
#[derive(Debug)]
pub(crate) struct Scrape(pub(crate) BTreeMap<String, Family>);

impl Scrape {
    pub(crate) fn parse(text: &str) -> Self {
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        let (mut present, mut helped) = (String::new(), String::new());
        let body = text.strip_suffix("# EOF\n").unwrap();
        for line in body.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap();
                assert!(help.ends_with('.') && !help.ends_with(".."), "{line}");
                name.clone_into(&mut helped);
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                assert_eq!(name, helped, "help comes first");
                let family = Family {
                    kind: kind.to_owned(),
                    ..Family::default()
                };
                let twice = families.insert(name.to_owned(), family);
                assert!(twice.is_none(), "{name} is there twice");
                name.clone_into(&mut present);
            } else if let Some(rest) = line.strip_prefix("# UNIT ") {
                let (name, unit) = rest.split_once(' ').unwrap();
                assert_eq!(name, present);
                assert!(name.ends_with(&format!("_{unit}")), "{line}");
            } else {
                let (series, value) = line.rsplit_once(' ').unwrap();
                let family = families.get_mut(&present).unwrap();
                check_series(series, &present, &family.kind);
                let twice = family
                    .samples
                    .insert(series.to_owned(), value.parse().unwrap());
                assert!(twice.is_none(), "{series} is there twice");
            }
        }
        for (name, family) in &families {
            if family.kind == "histogram" {
                check_histogram(name, family);
            }
        }
        Self(families)
    }

    /// A sample, if it is there.
    pub(crate) fn get(&self, series: &str) -> Option<f64> {
        let mut families = self.0.values();
        families.find_map(|family| family.samples.get(series).copied())
    }

    /// The names under which Prometheus stores these families; a histogram has its family's.
    pub(crate) fn stored(&self) -> BTreeSet<String> {
        self.0
            .iter()
            .map(|(name, family)| match family.kind.as_str() {
                "counter" => format!("{name}_total"),
                "info" => format!("{name}_info"),
                _ => name.clone(),
            })
            .collect()
    }
}

fn check_series(series: &str, family: &str, kind: &str) {
    let (name, labels) = match series.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
        None => (series, ""),
    };
    let suffix = name.strip_prefix(family).unwrap();
    let suffixes: &[&str] = match kind {
        "counter" => &["_total"],
        "gauge" => &[""],
        "info" => &["_info"],
        "histogram" => &["_bucket", "_sum", "_count"],
        other => panic!("{other} is no kind that we use"),
    };
    assert!(suffixes.contains(&suffix), "{series} of a {kind}");
    let mut seen = BTreeSet::new();
    for label in labels.split("\",").filter(|label| !label.is_empty()) {
        let (key, value) = label.split_once("=\"").unwrap();
        assert!(LABELS.contains(&key), "{series}: `{key}` is not ours");
        assert!(seen.insert(key), "{series}: `{key}` twice");
        let value = value.trim_end_matches('"');
        assert!(!value.contains(['"', '\n']), "{series}");
    }
}

fn check_histogram(name: &str, family: &Family) {
    let mut buckets: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for (series, count) in &family.samples {
        let Some(labels) = series.strip_prefix(&format!("{name}_bucket")) else {
            continue;
        };
        let (others, bound) = labels.split_once("le=\"").unwrap();
        let (bound, rest) = bound.split_once('"').unwrap();
        let key = format!(
            "{}{}",
            others.trim_end_matches(','),
            rest.trim_start_matches(',')
        );
        let bound = match bound {
            "+Inf" => f64::INFINITY,
            bound => bound.parse().unwrap(),
        };
        buckets.entry(key).or_default().push((bound, *count));
    }
    for (key, mut buckets) in buckets {
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        let is_cumulative = buckets.is_sorted_by_key(|bucket| bucket.1);
        assert!(is_cumulative, "{name}{key} is not cumulative");
        let (bound, total) = buckets[buckets.len() - 1];
        assert!(bound.is_infinite(), "{name}{key} has no last bucket");
        let count = format!("{name}_count{}", key.replace("{}", ""));
        assert_eq!(family.samples.get(&count), Some(&total), "{name}{key}");
    }
}
