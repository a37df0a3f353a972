"""Which addresses media may be fetched from: those of the public internet alone."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

# Prefixes whose IPv6 addresses carry an IPv4 address in their last 32 bits: a host or a router on the way unpacks it.
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")  # RFC 8215: leads wherever the local network says
_COMPATIBLE = IPv6Network("::/96")  # RFC 4291, 2.5.5.1, deprecated


def is_global(text: str) -> bool:
    """Whether an IP address is one of the public internet, and so is every address that is wrapped in it. Raises ValueError on others."""
    return all(map(_is_global, _unwrapped(ip_address(text))))


def _is_global(address: IPv4Address | IPv6Address) -> bool:
    # Python calls most multicast and some reserved addresses global: they are, and nobody's web server has one.
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _unwrapped(address: IPv4Address | IPv6Address) -> list[IPv4Address | IPv6Address]:
    """Returns the addresses that a packet may end at; wrappers themselves are left out, for many are not global by name."""
    if isinstance(address, IPv4Address) or address in _LOCAL_NAT64:
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    if address in _NAT64 or address in _COMPATIBLE:
        return [IPv4Address(int(address) & 0xFFFF_FFFF)]
    if address.sixtofour is not None:
        return [address.sixtofour]
    return [address, *(address.teredo or ())]
