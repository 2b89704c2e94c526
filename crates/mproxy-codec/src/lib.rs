//! The words of MQTT 3.1, 3.1.1 and 5.0: strict, borrowing views of control packets, and encoders.
