"""The host's side of MQTT: a broker to try things with, publishing, and what devices send back.

* `broker`: Mosquitto or iotcore as a child process on 127.0.0.1.
* `publish`: packages, TUF metadata and assignments as retained messages.
* `documents`: metadata cut into parts that fit one message.
* `ingest`: reports into a database, then acknowledged.
* `devices`: which devices are there.
"""
