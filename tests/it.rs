//! The integration tests, as one binary: linking candle is slow.

mod it {
    mod classify;
    mod data;
    mod cli;
    mod experiment;
    #[cfg(feature = "hub")]
    mod hub;
    mod downstream;
    mod expansions;
    mod models;
    mod registry;
    mod resume;
    mod toy;
    mod train;
}
