//! Promises: text that is understood comes back the same; text that is not is named with its
//! place; no text panics.

use super::*;
use crate::SourcesError;
use proptest::prelude::*;

fn shown(text: &str) -> String {
    text.parse::<Sources>().map_or_else(|wrong| panic!("{wrong}"), |sources| sources.to_string())
}

fn wrong(text: &str) -> SourcesError {
    text.parse::<Sources>().expect_err(text)
}

#[test]
fn what_people_write_is_understood() {
    for (written, means) in [
        ("10.0.0.2", "10.0.0.2"),
        (" 10.0.0.2\t10.0.0.4\n,10.0.0.6 ", "10.0.0.2, 10.0.0.4, 10.0.0.6"),
        (
            "10.0.0.2, 10.0.0.8-10.0.0.15, 10.1.0.0/28:2048-4095, [2001:db8::7]:5000-5999",
            "10.0.0.2, 10.0.0.8-10.0.0.15, 10.1.0.0-10.1.0.15:2048-4095, [2001:db8::7]:5000-5999",
        ),
        ("10.0.0.7/32", "10.0.0.7"),
        ("10.0.0.8-10.0.0.8", "10.0.0.8"),
        ("10.0.0.2:1-65535", "10.0.0.2:1-65535"),
        ("10.0.0.2:65535", "10.0.0.2:65535"),
        ("10.0.0.2:80-80", "10.0.0.2:80"),
        ("10.0.0.2:30+10+20", "10.0.0.2:10+20+30"),
        ("10.0.0.2:9-12+1-4+4-5+6-7", "10.0.0.2:1-7+9-12"),
        ("10.0.0.8-10.0.0.9:5000", "10.0.0.8-10.0.0.9:5000"),
        ("255.255.255.254", "255.255.255.254"),
        ("2001:db8::7:5000", "2001:db8::7:5000"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("2001:db8::/126", "2001:db8::-2001:db8::3"),
        ("[2001:db8::/126]:5000", "[2001:db8::-2001:db8::3]:5000"),
        ("[2001:db8::9-2001:db8::a]:1+3", "[2001:db8::9-2001:db8::a]:1+3"),
        ("2001:DB8:0::7", "2001:db8::7"),
        // IPv4-mapped is IPv4.
        ("::ffff:10.0.0.2", "10.0.0.2"),
        ("[::ffff:10.0.0.0/126]:7", "10.0.0.0-10.0.0.3:7"),
        ("::ffff:10.0.0.2-10.0.0.3", "10.0.0.2-10.0.0.3"),
        ("[10.0.0.2]:5000", "10.0.0.2:5000"),
        // Link-local.
        ("fe80::1%3", "fe80::1%3"),
        ("[fe80::1%3]:5000", "[fe80::1%3]:5000"),
        ("fe80::%3/127", "fe80::%3-fe80::1"),
        ("fe80::1%3-fe80::2", "fe80::1%3-fe80::2"),
        ("fe80::1-fe80::2%3", "fe80::1%3-fe80::2"),
        ("fe80::1%3-fe80::2%3", "fe80::1%3-fe80::2"),
        ("fe80::1%3 fe80::1%4", "fe80::1%3, fe80::1%4"),
        // The same address twice.
        ("10.0.0.2 10.0.0.2", "10.0.0.2"),
        ("10.0.0.2:1-5 10.0.0.2:4-9", "10.0.0.2:1-9"),
        ("10.0.0.2:1-5 ::ffff:10.0.0.2", "10.0.0.2:1-5"),
        ("10.0.0.0/30 10.0.0.2:7", "10.0.0.0-10.0.0.1, 10.0.0.2:7, 10.0.0.3"),
        // The order of first mention stays.
        ("10.0.0.3 10.0.0.2", "10.0.0.3, 10.0.0.2"),
    ] {
        assert_eq!(shown(written), means, "{written}");
        assert_eq!(shown(means), means, "{written} once more");
    }
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    for (written, part, offset, problem) in [
        ("", "", 0, "no source"),
        (" \n", " \n", 0, "no source"),
        (",", "", 0, "a comma"),
        ("10.0.0.2,", "", 9, "a comma"),
        (",10.0.0.2", "", 0, "a comma"),
        ("10.0.0.2, ,10.0.0.3", " ", 9, "a comma"),
        ("10.0.0.2, nonsense", "nonsense", 10, "'nonsense' is not an address"),
        ("10.0.0.2  é", "é", 10, "'é' is not an address"),
        ("10.0.0.2\u{a0}é", "é", 10, "'é' is not an address"),
        ("10.0.0.256", "10.0.0.256", 0, "not an address"),
        ("10.0.0.8 - 10.0.0.9", "-", 9, "not an address"),
        ("10.0.0.8-15", "10.0.0.8-15", 0, "written in full"),
        ("10.0.0.9-10.0.0.8", "10.0.0.9-10.0.0.8", 0, "write 10.0.0.8-10.0.0.9"),
        ("10.0.0.9-2001:db8::1", "10.0.0.9-2001:db8::1", 0, "one family to the other"),
        ("10.0.0.5/28", "10.0.0.5/28", 0, "the prefix 10.0.0.0/28"),
        ("10.0.0.0/33", "10.0.0.0/33", 0, "write 0 to 32"),
        ("10.0.0.0/", "10.0.0.0/", 0, "write 0 to 32"),
        ("10.0.0.0/+8", "10.0.0.0/+8", 0, "write 0 to 32"),
        ("10.0.0.0/99999999999", "10.0.0.0/99999999999", 0, "write 0 to 32"),
        ("2001:db8::/129", "2001:db8::/129", 0, "write 0 to 128"),
        ("10.0.0.0-10.0.0.9/28", "10.0.0.0-10.0.0.9/28", 0, "not an address"),
        // Ports.
        ("10.0.0.2:", "10.0.0.2:", 0, "no port after the colon"),
        ("10.0.0.2:0", "10.0.0.2:0", 0, "port 0"),
        ("10.0.0.2:0-9", "10.0.0.2:0-9", 0, "port 0"),
        ("10.0.0.2:65536", "10.0.0.2:65536", 0, "port 65536: the highest is 65535"),
        ("10.0.0.2:99999999999", "10.0.0.2:99999999999", 0, "the highest is 65535"),
        ("10.0.0.2:9-8", "10.0.0.2:9-8", 0, "write 8-9"),
        ("10.0.0.2:5+", "10.0.0.2:5+", 0, "'' is not a port"),
        ("10.0.0.2:1-2-3", "10.0.0.2:1-2-3", 0, "'2-3' is not a port"),
        ("10.0.0.2:http", "10.0.0.2:http", 0, "'http' is not a port"),
        // Brackets.
        ("[2001:db8::7", "[2001:db8::7", 0, "not closed"),
        ("[2001:db8::7]5000", "[2001:db8::7]5000", 0, "after the bracket"),
        ("[2001:db8::]/124:5", "[2001:db8::]/124:5", 0, "stand inside it"),
        ("2001:db8::7:5000-5999", "2001:db8::7:5000-5999", 0, "written in full"),
        ("2001:db8::7:50000", "2001:db8::7:50000", 0, "[address]:ports"),
        ("[]:5", "[]:5", 0, "'' is not an address"),
        // Interfaces.
        ("fe80::1", "fe80::1", 0, "write fe80::1%3"),
        ("fe80::1%0", "fe80::1%0", 0, "names no interface"),
        ("fe80::1%eth0", "fe80::1%eth0", 0, "'%eth0' names no interface: write its index"),
        ("fe80::1%99999999999", "fe80::1%99999999999", 0, "names no interface"),
        ("fe80::1%3-fe80::2%4", "fe80::1%3-fe80::2%4", 0, "from interface 3 to interface 4"),
        ("2001:db8::7%3", "2001:db8::7%3", 0, "is not link-local"),
        ("10.0.0.2%3", "10.0.0.2%3", 0, "is not link-local"),
        (
            "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff%3-fec0::",
            "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff%3-fec0::",
            0,
            "only some are link-local",
        ),
        // Addresses that are no sources.
        ("0.0.0.0", "0.0.0.0", 0, "to the kernel"),
        ("::", "::", 0, "to the kernel"),
        ("224.0.0.1", "224.0.0.1", 0, "no host's address"),
        ("223.255.255.255-224.0.0.0", "223.255.255.255-224.0.0.0", 0, "no host's address"),
        ("255.255.255.254/31", "255.255.255.254/31", 0, "no host's address"),
        ("ff02::1%3", "ff02::1%3", 0, "no host's address"),
    ] {
        let wrong = wrong(written);
        assert_eq!((wrong.part.as_str(), wrong.offset), (part, offset), "{written}: {wrong}");
        assert!(wrong.problem.contains(problem), "{written}: {wrong}");
    }
}

#[test]
fn too_much_is_told_with_its_number_and_the_way_out() {
    for (written, problem) in [
        ("10.0.0.0/15", "/15 has 2^17 addresses: name at most 65536, a /16 or longer"),
        ("::/0", "/0 has 2^128 addresses: name at most 65536, a /112 or longer"),
        ("10.0.0.0-10.1.0.0", "there are 65537 addresses"),
        ("::1-ffff::", "addresses: name at most 65536"),
        ("10.0.0.0/16, 10.1.0.0", "with it there are 65537 addresses"),
        ("10.0.0.0/16:1-65535", "there are 4294901760 pairs of address and port"),
        ("10.0.0.0/16:1-32768, 10.0.0.9:32769", "there are 2147483649 pairs"),
    ] {
        let wrong = wrong(written);
        assert!(wrong.problem.contains(problem), "{written}: {wrong}");
    }
    assert_eq!(shown("10.0.0.0/16:1-32768"), "10.0.0.0-10.0.255.255:1-32768");
    let all: Sources = "2001:db8::/112".parse().unwrap();
    assert_eq!(all.len(), 65_536);
}

#[test]
fn a_hook_turns_interface_names_into_indices() {
    let index_of = |name: &str| match name {
        "eth0" => Some(7),
        "br-lan" => Some(8),
        _ => None,
    };
    let shown =
        |text| Sources::parse_with_interfaces(text, index_of).map(|sources| sources.to_string());
    assert_eq!(shown("fe80::1%eth0").unwrap(), "fe80::1%7");
    assert_eq!(shown("[fe80::%br-lan/127]:5").unwrap(), "[fe80::%8-fe80::1]:5");
    assert_eq!(shown("fe80::1%br-lan-fe80::2%br-lan").unwrap(), "fe80::1%8-fe80::2");
    assert_eq!(shown("fe80::1%3").unwrap(), "fe80::1%3");
    assert!(shown("fe80::1%lo").unwrap_err().problem.contains("'%lo' names no interface"));
}

#[test]
fn sources_from_elsewhere_are_joined_and_made_canonical() {
    let mapped = Source {
        address: "::ffff:10.0.0.2".parse().unwrap(),
        scope: 3,
        ports: vec![PortRange::new(6, 9).unwrap(), PortRange::new(1, 5).unwrap()],
    };
    let bare = Source { address: "10.0.0.2".parse().unwrap(), scope: 0, ports: vec![] };
    let sources: Sources = [mapped, bare].into_iter().collect();
    assert_eq!(sources.as_slice()[0].to_string(), "10.0.0.2:1-9");
    assert_eq!(sources.len(), 1);
}

#[test]
fn a_port_range_parses_alone() {
    let range = |text: &str| text.parse::<PortRange>();
    assert_eq!(range("1024-65535").unwrap(), PortRange::new(1024, 65535).unwrap());
    assert_eq!(range("80").unwrap().to_string(), "80");
    for (text, problem) in [
        ("", "not a port"),
        ("0", "port 0"),
        ("65536", "65535"),
        ("9-8", "write 8-9"),
        (" 5", "not a port"),
    ] {
        let wrong = range(text).unwrap_err();
        assert!(wrong.problem.contains(problem), "{text}: {wrong}");
        assert_eq!((wrong.part.as_str(), wrong.offset), (text, 0));
    }
}

/// Few addresses and ports, so that sources meet, overlap and follow each other.
fn any_source() -> impl Strategy<Value = Source> {
    let address = (0u8..3, 1u8..12).prop_map(|(kind, n)| match kind {
        0 => (IpAddr::from([10, 0, 0, n]), 0),
        1 => (IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(n)]), 0),
        _ => (IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, u16::from(n)]), 1 + u32::from(n % 2)),
    });
    let range = (1u16..40, 0u16..9)
        .prop_map(|(first, more)| PortRange::new(first, first + more).expect("not reversed"));
    (address, prop::collection::vec(range, 0..3)).prop_map(|((address, scope), ports)| Source {
        address,
        scope,
        ports,
    })
}

proptest! {
    #[test]
    fn shown_sources_parse_to_the_same(given in prop::collection::vec(any_source(), 1..30)) {
        let sources: Sources = given.into_iter().collect();
        prop_assert_eq!(&sources.to_string().parse::<Sources>().unwrap(), &sources);
    }

    #[test]
    fn sources_keep_their_invariants(given in prop::collection::vec(any_source(), 1..30)) {
        let sources: Sources = given.iter().cloned().collect();
        for (at, source) in sources.iter().enumerate() {
            let twin = |other: &Source| (other.address, other.scope) == (source.address, source.scope);
            prop_assert!(!sources.as_slice()[..at].iter().any(twin));
            for pair in source.ports.windows(2) {
                prop_assert!(u32::from(pair[0].last()) + 1 < u32::from(pair[1].first()));
            }
            for port in 1..60 {
                let named = given.iter().filter(|given| twin(given))
                    .any(|given| given.ports.iter().any(|range| range.contains(port)));
                prop_assert_eq!(source.ports.iter().any(|range| range.contains(port)), named);
            }
        }
    }

    #[test]
    fn no_text_panics(text in any::<String>()) {
        let _ = text.parse::<Sources>();
        let _ = text.parse::<PortRange>();
    }

    #[test]
    fn no_text_of_our_letters_panics_and_offsets_are_true(
        text in r"([0-9a-f]{1,4}|10\.0\.0\.[0-9]|fe80::1|::|[-:/%+,\[\] é.]|ffff){0,12}"
    ) {
        match text.parse::<Sources>() {
            Ok(sources) => prop_assert_eq!(sources.to_string().parse::<Sources>().unwrap(), sources),
            Err(wrong) => prop_assert!(text[wrong.offset..].starts_with(&wrong.part)),
        }
    }
}
