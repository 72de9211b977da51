//! `volar top`: what the VMs use, once or again and again on a screen of its own.

use common::exit_code::ExitCode;

use super::{CommandError, Context, Doing as _};
use crate::cli::TopArgs;
use crate::client::{Client, VmFilter};
use crate::output::{Output, OutputError, Sample, top_json, top_table};

/// The other screen and no cursor (xterm's DEC private modes 1049 and 25).
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l";

/// Back again.
const LEAVE: &[u8] = b"\x1b[?25h\x1b[?1049l";

/// To the first line; each line then removes what is behind it, and the last one what is below (ECMA-48 CUP, EL, ED).
const HOME: &str = "\x1b[H";

pub(super) async fn run(context: &Context, args: &TopArgs) -> Result<(), CommandError> {
    let client = context.client()?;
    let live = !args.once && context.output.is_terminal() && context.output.is_text();
    if !live {
        let first = sample(&client).await?;
        let names: Vec<&str> = first.vms.iter().map(|vm| vm.name.as_str()).collect();
        if !context.output.is_text() {
            let json = top_json(&first.stats);
            return Ok(context.output.result(&json, &names, String::new)?);
        }
        // Use is between two looks; where nothing runs, one suffices.
        let before = if first.stats.is_empty() {
            None
        } else {
            tokio::time::sleep(args.interval.min(std::time::Duration::from_secs(1))).await;
            Some(first)
        };
        let now = sample(&client).await?;
        return Ok(context
            .output
            .result("", &[], || top_table(before.as_ref(), &now))?);
    }
    let mut before = Some(sample(&client).await?);
    let screen = Screen::enter(context.output)?;
    loop {
        let now = sample(&client).await?;
        screen.show(&top_table(before.as_ref(), &now))?;
        before = Some(now);
        tokio::select! {
            biased;
            // How one stops looking: not an error to talk about.
            _ = tokio::signal::ctrl_c() => break,
            () = tokio::time::sleep(args.interval) => {}
        }
    }
    drop(screen);
    Err(CommandError::Reported(ExitCode::Interrupted))
}

async fn sample(client: &Client) -> Result<Sample, CommandError> {
    let action = || "show what the VMs use".to_owned();
    let filter = VmFilter {
        sort: Some("name".to_owned()),
        ..VmFilter::default()
    };
    let vms = client.vms(&filter).await.doing(action)?.value;
    let stats = client.all_stats().await.doing(action)?.value;
    Ok(Sample { vms, stats })
}

/// The terminal's other screen, until this is dropped.
struct Screen(Output);

impl Screen {
    fn enter(output: Output) -> Result<Self, OutputError> {
        output.bytes(ENTER)?;
        Ok(Self(output))
    }

    fn show(&self, text: &str) -> Result<(), OutputError> {
        let rows = crate::terminal::size().map_or(24, |size| usize::from(size.rows));
        let lines: Vec<&str> = text.lines().take(rows.saturating_sub(1)).collect();
        let text = format!("{HOME}{}\x1b[K\n\x1b[J", lines.join("\x1b[K\n"));
        self.0.bytes(text.as_bytes())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The terminal may be gone, and then nobody misses its screen.
        drop(self.0.bytes(LEAVE));
    }
}
