"""The plugins that come with bpfleet; they import only `bpfleet`, as anyone's do."""
