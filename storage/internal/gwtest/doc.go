// Package gwtest starts the S3 servers that the drivers are tested against: versitygw, embedded in
// the test binary, and moto.
//
// versitygw runs in a process of its own, the test binary started again, because its posix backend
// changes the working directory of the process that it lives in.
package gwtest
