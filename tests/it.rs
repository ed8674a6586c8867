//! The integration tests, as one binary: linking candle is slow.

mod it {
    mod bench;
    mod bundle;
    mod classify;
    mod cli;
    mod compare;
    mod curve;
    mod data;
    mod diff;
    mod downstream;
    mod expansions;
    mod experiment;
    mod export;
    mod formula;
    #[cfg(feature = "hub")]
    mod hub;
    mod list;
    mod models;
    mod oracle;
    mod parity;
    #[cfg(feature = "postgres")]
    mod postgres;
    mod promises;
    #[cfg(feature = "hub")]
    mod publish;
    mod registry;
    mod rerun;
    mod resume;
    #[cfg(feature = "postgres")]
    mod server;
    mod sweep;
    mod tidy;
    mod tiny;
    mod toy;
    mod train;
    mod web;
    mod weights;
}
