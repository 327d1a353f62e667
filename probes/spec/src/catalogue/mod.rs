//! The catalogue: one file a probe.

mod eg_01;
mod eg_02;
mod eg_04;
mod eg_06;
mod eg_08;
mod eg_09;
mod eg_10;
mod eg_12;
mod eg_13;
mod eg_15;
mod eg_16;
mod eg_17;
mod he_01;
mod he_02;
mod he_03;
mod he_05;
mod he_15;
mod he_20;
mod he_23;
mod he_24;
mod lb_01;
mod lb_02;
mod lb_03;
mod lb_04;
mod lb_05;
mod lb_06;
mod lb_07;
mod lb_08;
mod lb_09;
mod lb_11;
mod lc_01;
mod lc_02;
mod lc_03;
mod lc_05;
mod lc_06;
mod lc_09;
mod make;
mod px_01;
mod px_02;
mod px_03;
mod px_04;
mod px_05;
mod px_06;
mod px_07;
mod px_08;
mod px_10;
mod px_12;
mod px_13;
mod px_15;
mod px_16;
mod px_17;
mod px_21;
mod px_24;
mod px_26;
#[cfg(test)]
mod tests;
mod tx_01;
mod tx_02;
mod tx_03;
mod tx_04;
mod tx_05;
mod tx_07;
mod tx_12;
mod tx_18;
mod xb_01;
mod xb_02;
mod xb_03;
mod xb_04;
mod xb_05;
mod xb_06;
mod xb_09;
mod xb_10;
mod xb_13;
mod xb_14;

use crate::Probe;

/// Every probe, by family and number.
pub const CATALOGUE: &[&Probe] = &[
    &lb_01::PROBE,
    &lb_02::PROBE,
    &lb_03::PROBE,
    &lb_04::PROBE,
    &lb_05::PROBE,
    &lb_06::PROBE,
    &lb_07::PROBE,
    &lb_08::PROBE,
    &lb_09::PROBE,
    &lb_11::PROBE,
    &eg_01::PROBE,
    &eg_02::PROBE,
    &eg_04::PROBE,
    &eg_06::PROBE,
    &eg_08::PROBE,
    &eg_09::PROBE,
    &eg_10::PROBE,
    &eg_12::PROBE,
    &eg_13::PROBE,
    &eg_15::PROBE,
    &eg_16::PROBE,
    &eg_17::PROBE,
    &px_01::PROBE,
    &px_02::PROBE,
    &px_03::PROBE,
    &px_04::PROBE,
    &px_05::PROBE,
    &px_06::PROBE,
    &px_07::PROBE,
    &px_08::PROBE,
    &px_10::PROBE,
    &px_12::PROBE,
    &px_13::PROBE,
    &px_15::PROBE,
    &px_16::PROBE,
    &px_17::PROBE,
    &px_21::PROBE,
    &px_24::PROBE,
    &px_26::PROBE,
    &xb_01::PROBE,
    &xb_02::PROBE,
    &xb_03::PROBE,
    &xb_04::PROBE,
    &xb_05::PROBE,
    &xb_06::PROBE,
    &xb_09::PROBE,
    &xb_10::PROBE,
    &xb_13::PROBE,
    &xb_14::PROBE,
    &tx_01::PROBE,
    &tx_02::PROBE,
    &tx_03::PROBE,
    &tx_04::PROBE,
    &tx_05::PROBE,
    &tx_07::PROBE,
    &tx_12::PROBE,
    &tx_18::PROBE,
    &he_01::PROBE,
    &he_02::PROBE,
    &he_03::PROBE,
    &he_05::PROBE,
    &he_15::PROBE,
    &he_20::PROBE,
    &he_23::PROBE,
    &he_24::PROBE,
    &lc_01::PROBE,
    &lc_02::PROBE,
    &lc_03::PROBE,
    &lc_05::PROBE,
    &lc_06::PROBE,
    &lc_09::PROBE,
];

/// The probe with this id, without regard to case.
pub fn probe(id: &str) -> Option<&'static Probe> {
    CATALOGUE
        .iter()
        .find(|probe| probe.id.eq_ignore_ascii_case(id))
        .copied()
}
