"""What Bytewax and asyncio need, whatever passes: loop, epochs, routing, positions, the end."""
