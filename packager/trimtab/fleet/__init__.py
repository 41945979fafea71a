"""The host's side of MQTT: a broker to try things with, publishing, and what devices send back.

* `broker`: Mosquitto or iotcore as a child process.
* `authority`, `enrolment`: devices' certificates.
* `publish`, `documents`: packages, TUF metadata and assignments as retained messages.
* `folder`: the same as files; `broadcast`: chunks to a group at once.
* `shelf`: what was put on the broker; `audit`: it is mended and tidied.
* `chunk_server`: chunks that devices ask for, from the `library` of packages.
* `ingest`: reports into a database, then acknowledged; `devices`: which are there.
* `commands`: what a device should do now.
"""
