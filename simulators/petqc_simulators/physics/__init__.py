"""What the detector does, in engineering units: source, crystals, SiPMs, electronics. Knows no bytes and no sockets."""
