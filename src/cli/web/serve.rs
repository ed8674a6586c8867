//! `serve`.

use super::server;
use crate::cli::{Context, signals};
use crate::error::{Error, Result};
use serde_json::json;
use std::net::{Ipv4Addr, TcpListener};

const EXAMPLES: &str = "\
Examples:
  resnet-zoo serve                     all runs at http://127.0.0.1:7878
  resnet-zoo serve --port 0            at a port that is free
  ssh -L 7878:127.0.0.1:7878 HOST      then the page of another machine, here

It lists runs by the filter language of `runs ls`, compares them, and follows running ones. It can change nothing: it
reads through a connection that cannot write, answers GET alone, on the loopback interface alone, and to no other site's
scripts. Ctrl-C ends it.
JSON: one line once it listens, {event: \"serving\", address}.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Arguments {
    /// The port; 0 means one that is free
    #[arg(long, default_value_t = 7878, value_name = "N")]
    port: u16,
}

pub(in crate::cli) fn run(arguments: &Arguments, context: &mut Context) -> Result<()> {
    let reader = context.reader()?;
    let stop = signals::listen()?;
    let port = arguments.port;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(|error| {
        Error::input(format!("cannot listen on port {port}: {error}; --port 0 takes one that is free"))
    })?;
    let address = listener.local_addr().map_err(|error| Error::failed(format!("cannot listen: {error}")))?;
    let address = format!("http://{address}");
    if context.json {
        context.terminal.print_json_line(&json!({"event": "serving", "address": address}))?;
    } else {
        context.terminal.print(&format!("{} at {address}, until Ctrl-C", context.location))?;
    }
    server::serve(listener, reader, &stop)
}
