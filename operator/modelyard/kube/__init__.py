"""The API server as operator and gateway need it: a small client, informers, server-side apply, the leader's Lease, events."""
