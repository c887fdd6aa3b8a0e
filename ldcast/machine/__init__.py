"""The machine: devices, half precision, processes, threads, files, signals; it knows no rain."""
