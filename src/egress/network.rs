//! Address ranges.

use std::net::IpAddr;
use std::str::FromStr;

/// An address range: `10.0.0.0/8`, `::1`, ...
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    base: u128,
    prefix: u8,
    v4: bool,
}

impl FromStr for Network {
    type Err = String;
    fn from_str(s: &str) -> Result<Network, String> {
        let (address, prefix) = match s.trim().split_once('/') {
            Some((a, p)) => (a, Some(p.parse::<u8>().map_err(|_| format!("{s:?}: the prefix is not a number"))?)),
            None => (s.trim(), None),
        };
        let address: IpAddr = address.parse().map_err(|_| format!("{s:?} is not an address or address range"))?;
        let (bits, width, v4) = bits(address);
        let prefix = prefix.unwrap_or(width);
        if prefix > width {
            return Err(format!("{s:?}: the prefix is longer than the address"));
        }
        Ok(Network { base: bits & mask(prefix, width), prefix, v4 })
    }
}

impl Network {
    /// An IPv4 address in IPv6 clothing is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (bits, width, v4) = bits(address.to_canonical());
        v4 == self.v4 && bits & mask(self.prefix, width) == self.base
    }
}

fn bits(address: IpAddr) -> (u128, u8, bool) {
    match address {
        IpAddr::V4(a) => (u128::from(u32::from(a)), 32, true),
        IpAddr::V6(a) => (u128::from(a), 128, false),
    }
}

fn mask(prefix: u8, width: u8) -> u128 {
    let ones = if width == 32 { u128::from(u32::MAX) } else { u128::MAX };
    if prefix == 0 { 0 } else { ones & (ones << (width - prefix)) }
}
