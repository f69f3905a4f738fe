"""What runs inside the sandbox; nothing here may import anything but the standard library."""
