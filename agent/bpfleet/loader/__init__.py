"""The loader: one short-lived root process per collector that brings it into the kernel."""
