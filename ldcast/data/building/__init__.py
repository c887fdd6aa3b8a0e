"""Archives of rain: what `ldcast.data.build` writes and `ldcast.data.inspect` looks at."""
