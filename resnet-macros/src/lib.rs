//! `zoo!`: compiles YAML architecture specs into candle modules.
