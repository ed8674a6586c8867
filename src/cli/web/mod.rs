//! Runs as a web page: one file that `report` writes, or what `serve` shows of a whole registry.
//!
//! Both are one page (`page.html`, `page.css`, `page.js`) over one kind of data ([`story`]). The page asks nobody but the server
//! that it came from, and the server answers with what it reads: it holds no connection that could write.

mod architecture;
mod evaluation;
mod page;
pub(super) mod report;
pub(super) mod serve;
mod server;
mod story;
mod tables;
