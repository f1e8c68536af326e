//! `esolm devices`: the adapters that `--device` chooses from.

use std::fmt::Write;

use esolm::device::adapters;
use esolm::variants::Chosen;
use esolm::{AdapterInfo, AdapterKind};
use esolm_checkpoint::message::count;
use serde::Serialize;

use crate::arguments::{Devices, FormatName};
use crate::failure::Failure;
use crate::output;

/// An adapter, and what would run on it.
#[derive(Serialize)]
struct Entry {
    #[serde(flatten)]
    adapter: AdapterInfo,
    variants: Chosen,
    /// Whether `auto` tries it first. If it fails, `auto` tries the next real GPU, and finally the CPU.
    auto: bool,
}

pub fn run(arguments: &Devices) -> Result<(), Failure> {
    let entries = entries(adapters());
    match arguments.form.format() {
        FormatName::Text => output::text(&table(&entries)),
        format => output::json(&entries, format),
    }
}

fn entries(adapters: Vec<AdapterInfo>) -> Vec<Entry> {
    // `auto` tries real GPUs in this order; only opening one shows whether it works.
    let auto = adapters
        .iter()
        .position(|adapter| adapter.kind != AdapterKind::Software);
    adapters
        .into_iter()
        .enumerate()
        .map(|(index, adapter)| Entry {
            variants: Chosen::by_table(adapter.kind),
            auto: auto == Some(index),
            adapter,
        })
        .collect()
}

fn table(entries: &[Entry]) -> String {
    let mut text = String::new();
    for Entry {
        adapter,
        variants,
        auto,
    } in entries
    {
        let limits = &adapter.limits;
        let mib = |bytes: u64| match bytes >> 20 {
            // Drivers without a limit report the largest number.
            n if n > 1 << 30 => "unlimited".to_string(),
            n => format!("{n} MiB"),
        };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "gpu:{}  {adapter}{}\n       driver    {}\n       limits    {} a binding, {} a buffer, {} storage buffers, {} KiB workgroup \
             memory, {} invocations\n       variants  {variants}\n",
            adapter.index,
            if *auto {
                "  <- auto tries this first"
            } else {
                ""
            },
            if adapter.driver.is_empty() {
                "unnamed"
            } else {
                &adapter.driver
            },
            mib(limits.max_binding_bytes),
            mib(limits.max_buffer_bytes),
            limits.storage_buffers,
            limits.workgroup_bytes >> 10,
            limits.workgroup_invocations,
        );
    }
    let auto = entries.iter().any(|entry| entry.auto);
    let _ = writeln!(
        text,
        "cpu    {}{}",
        count(
            std::thread::available_parallelism().map_or(1, usize::from),
            "thread"
        ),
        if auto { "" } else { "  <- auto" }
    );
    text
}

#[cfg(test)]
mod tests {
    use esolm::device::AdapterLimits;

    use super::*;

    fn adapter(index: usize, kind: AdapterKind) -> AdapterInfo {
        AdapterInfo {
            index,
            name: format!("adapter {index}"),
            backend: "vulkan".into(),
            driver: String::new(),
            kind,
            limits: AdapterLimits {
                max_binding_bytes: 128 << 20,
                max_buffer_bytes: u64::MAX,
                storage_buffers: 8,
                workgroup_bytes: 16 << 10,
                workgroup_invocations: 256,
            },
        }
    }

    #[test]
    fn auto_tries_the_first_real_gpu_first() {
        let none = table(&entries(Vec::new()));
        assert!(none.contains("cpu") && none.contains("<- auto"), "{none}");
        let software = table(&entries(vec![adapter(0, AdapterKind::Software)]));
        assert!(
            software
                .lines()
                .last()
                .is_some_and(|line| line.ends_with("<- auto")),
            "{software}"
        );
        let both = entries(vec![
            adapter(0, AdapterKind::Integrated),
            adapter(1, AdapterKind::Software),
        ]);
        assert!(both[0].auto && !both[1].auto);
        let text = table(&both);
        assert!(
            text.contains("128 MiB a binding, unlimited a buffer"),
            "{text}"
        );
        let marked: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("<- auto"))
            .collect();
        assert!(
            marked.len() == 1 && marked[0].ends_with("<- auto tries this first"),
            "{text}"
        );
        assert!(marked[0].starts_with("gpu:0"), "{text}");
    }
}
