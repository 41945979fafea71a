"""What host and device both speak: topics, messages, manifests, profiles and chunks.

Pure: bytes in, values out. Nothing in this package opens a file, a socket or a process, and it
imports nothing third-party beyond msgspec and numpy, so that both sides, tests and other
programs can use it alone.

* `topics`: the MQTT topic of everything that is published.
* `messages`: assignments, reports, acknowledgements, device inventory.
* `measurement`: latency, memory, energy and the environment they were measured in.
* `manifest`: the signed description of a package.
* `profile`: what is known of a kind of device.
* `chunks`: how files are cut into content-addressed chunks.
* `codec`: values to bytes and back, with errors that name the place of the fault.
"""
