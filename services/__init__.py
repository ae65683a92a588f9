"""The shop: services that fulfil orders, each a module in a process of its own, built on jetloom's public API only."""
