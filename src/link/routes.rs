//! The default routes in the kernel's tables: pure.

/// Every way out; where there is none, nobody off this device can be reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ways(Vec<Way>);

/// In the order of their fields.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Way {
    family: u8,
    /// The smallest one is taken.
    metric: u32,
    interface: String,
    gateway: String,
}

const UP: u32 = 0x1;
const REJECT: u32 = 0x200;

impl Ways {
    /// From `/proc/net/route` and `/proc/net/ipv6_route`, without interfaces that have no carrier.
    pub fn read(ipv4: &str, ipv6: &str, has_carrier: impl Fn(&str) -> bool) -> Self {
        let mut ways: Vec<Way> = ipv4.lines().filter_map(of_ipv4).chain(ipv6.lines().filter_map(of_ipv6)).collect();
        ways.retain(|way| has_carrier(&way.interface));
        // The tables' order says nothing.
        ways.sort();
        Self(ways)
    }

    /// The interfaces that are taken: of each family's best way.
    pub fn interfaces(&self) -> Vec<String> {
        let mut taken: Vec<String> = Vec::new();
        for family in [4, 6] {
            let best = self.0.iter().find(|way| way.family == family);
            taken.extend(best.map(|way| way.interface.clone()));
        }
        taken.dedup();
        taken
    }
}

fn of_ipv4(line: &str) -> Option<Way> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [interface, "00000000", gateway, flags, _, _, metric, "00000000", ..] = fields.as_slice() else { return None };
    let metric = metric.parse().ok()?;
    way(4, interface, gateway, flags, metric)
}

fn of_ipv6(line: &str) -> Option<Way> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [to, "00", _, _, gateway, metric, _, _, flags, interface] = fields.as_slice() else { return None };
    let metric = u32::from_str_radix(metric, 16).ok()?;
    if to.bytes().all(|digit| digit == b'0') { way(6, interface, gateway, flags, metric) } else { None }
}

fn way(family: u8, interface: &str, gateway: &str, flags: &str, metric: u32) -> Option<Way> {
    let flags = u32::from_str_radix(flags, 16).ok()?;
    let leads_out = flags & UP != 0 && flags & REJECT == 0 && interface != "lo";
    leads_out.then(|| Way { family, metric, interface: interface.to_owned(), gateway: gateway.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPV4: &str = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
        wwan0\t00000000\t0100000A\t0003\t0\t0\t700\t00000000\t0\t0\t0\n\
        eth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
        eth0\t000200C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
    const IPV6: &str = "\
        fe800000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000002 00000000 00000001     eth0\n\
        00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003     wlan0\n\
        00000000000000000000000000000001 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000002 00000000 80200001       lo\n\
        00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";

    #[test]
    fn the_smallest_metric_of_each_family_is_taken() {
        assert_eq!(Ways::read(IPV4, IPV6, |_| true).interfaces(), ["eth0", "wlan0"]);
        assert_eq!(Ways::read(IPV4, IPV6, |interface| interface != "eth0").interfaces(), ["wwan0", "wlan0"]);
        assert_eq!(Ways::read(IPV4, "", |_| true).interfaces(), ["eth0"]);
        assert!(Ways::read("", &IPV6.replace("wlan0", "lo"), |_| true).interfaces().is_empty());
        assert!(Ways::read("nonsense", "00 00\n\n", |_| true).interfaces().is_empty());
    }

    #[test]
    fn another_gateway_is_a_change_and_another_order_is_none() {
        let read = |ipv4: &str| Ways::read(ipv4, "", |_| true);
        let mut lines: Vec<&str> = IPV4.lines().collect();
        lines.reverse();
        assert_eq!(read(IPV4), read(&lines.join("\n")));
        assert_ne!(read(IPV4), read(&IPV4.replace("010200C0\t0003", "020200C0\t0003")));
    }
}
