package main

import (
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"spool/monitoring"
)

// Categories of commands and flags in the help.
const (
	forUsers     = "commands for users"
	forOperators = "commands for operators"
	storeGroup   = "bucket and queues"
	logGroup     = "log"
)

func storeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "bucket", Category: storeGroup, Usage: "`NAME` of the bucket; a KEY of the form s3://NAME/… says it too"},
		&cli.StringFlag{Name: "region", Category: storeGroup, Usage: "`REGION` of bucket and queues (default: AWS_REGION or the profile's)"},
		&cli.StringFlag{Name: "s3-endpoint", Category: storeGroup, Usage: "`URL` of a store other than AWS (default: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL)"},
		&cli.StringFlag{Name: "store-driver", Category: storeGroup, Value: driverS3, Usage: "client library: s3 (aws-sdk-go-v2) or minio (minio-go)"},
	}
}

func queueFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "sqs-endpoint", Category: storeGroup, Usage: "`URL` of a queue service other than AWS (default: AWS_ENDPOINT_URL_SQS, AWS_ENDPOINT_URL)"},
	}
}

func logFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "log-level", Category: logGroup, EnvVars: []string{"LOG_LEVEL"}, Usage: "debug, info, warn or error (default: info for watch, run and local; others are silent, and warn in --log-file)"},
		&cli.StringFlag{Name: "log-format", Category: logGroup, EnvVars: []string{"LOG_FORMAT"}, Usage: "json or console (default: json)"},
		&cli.StringFlag{Name: "log-file", Category: logGroup, EnvVars: []string{"LOG_FILE"}, Usage: "append the log to `FILE` too, as JSON; a file for each process"},
		&cli.IntFlag{Name: "log-file-size", Category: logGroup, Value: monitoring.DefaultFileMiB, EnvVars: []string{"LOG_FILE_SIZE"}, Usage: "rotate the file at `MIB`; 7 rotated files are kept, up to 30 days"},
		&cli.DurationFlag{Name: "log-file-age", Category: logGroup, Value: monitoring.DefaultFileAge, EnvVars: []string{"LOG_FILE_AGE"}, Usage: "rotate it after `TIME`, too"},
	}
}

func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "print one JSON document (see docs/CLI.md)"}
}

func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Usage: "`FILE` with the pools, YAML"}
}

func pushgatewayFlag(without string) cli.Flag {
	return &cli.StringFlag{Name: "pushgateway", EnvVars: []string{"PUSHGATEWAY_URL"},
		Usage: "`URL` of the Pushgateway that takes the metrics (default: PUSHGATEWAY_URL, else " + without + ")"}
}

// positive refuses values of number and duration flags that stand for nothing: packages take 0 for their default.
func positive(c *cli.Context, flags ...string) error {
	for _, name := range flags {
		n, isInt := c.Value(name).(int)
		d, isTime := c.Value(name).(time.Duration)
		if isInt && n <= 0 || isTime && d <= 0 {
			return usagef("--%s %v: must be more than 0", name, c.Value(name))
		}
	}
	return nil
}

// envName is the variable of a flag.
func envName(flag string) string {
	return "SPOOL_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// withEnv gives every flag its variable, before those that it has already.
func withEnv(flags []cli.Flag) []cli.Flag {
	for _, f := range flags {
		env := []string{envName(f.Names()[0])}
		switch f := f.(type) {
		case *cli.StringFlag:
			f.EnvVars = append(env, f.EnvVars...)
		case *cli.BoolFlag:
			f.EnvVars = append(env, f.EnvVars...)
			f.DisableDefaultText = true
		case *cli.IntFlag:
			f.EnvVars = append(env, f.EnvVars...)
		case *cli.Float64Flag:
			f.EnvVars = append(env, f.EnvVars...)
		case *cli.DurationFlag:
			f.EnvVars = append(env, f.EnvVars...)
		case *cli.StringSliceFlag:
			f.EnvVars = append(env, f.EnvVars...)
		}
	}
	return flags
}
