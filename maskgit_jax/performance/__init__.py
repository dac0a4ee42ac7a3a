"""Speed and memory: measured on the devices at hand, estimated for devices that are not."""
