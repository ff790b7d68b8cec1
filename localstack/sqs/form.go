package sqs

import (
	"fmt"
	"net/url"
	"reflect"
	"strconv"
	"strings"
)

// decodeForm fills a request from the parameters of the Query protocol. A field's parameter has its JSON name, or that
// of the tag `query` where a list or map is named for its elements: lists are Name.1, Name.2, …, maps are
// Name.1.Name and Name.1.Value (Key instead of Name for tags), structures are Name.Field.
func decodeForm(form url.Values, request any) error {
	return decodeStruct(form, "", reflect.ValueOf(request).Elem())
}

func decodeStruct(form url.Values, prefix string, v reflect.Value) error {
	for field, value := range v.Fields() {
		if field.Anonymous {
			if err := decodeStruct(form, prefix, value); err != nil {
				return err
			}
			continue
		}
		if err := decodeValue(form, prefix+parameter(field), value); err != nil {
			return err
		}
	}
	return nil
}

func parameter(field reflect.StructField) string {
	if name := field.Tag.Get("query"); name != "" {
		return name
	}
	name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
	return name
}

func decodeValue(form url.Values, name string, v reflect.Value) error {
	switch kind := v.Type(); {
	case kind == reflect.TypeFor[blob]():
		if err := v.Addr().Interface().(*blob).UnmarshalText([]byte(form.Get(name))); err != nil {
			return errMalformed(fmt.Errorf("decode %s: %w", name, err))
		}
	case kind.Kind() == reflect.String:
		v.SetString(form.Get(name))
	case kind == reflect.TypeFor[*int]():
		if !form.Has(name) {
			return nil
		}
		n, err := strconv.Atoi(form.Get(name))
		if err != nil {
			return errMalformed(fmt.Errorf("decode %s: %w", name, err))
		}
		v.Set(reflect.ValueOf(&n))
	case kind.Kind() == reflect.Struct:
		return decodeStruct(form, name+".", v)
	case kind.Kind() == reflect.Slice:
		return decodeList(form, name, v)
	case kind.Kind() == reflect.Map:
		return decodeMap(form, name, v)
	default:
		return fmt.Errorf("decode %s: no rule for %s", name, kind)
	}
	return nil
}

func decodeList(form url.Values, name string, v reflect.Value) error {
	for i := 1; present(form, element(name, i)); i++ {
		item := reflect.New(v.Type().Elem()).Elem()
		if err := decodeValue(form, element(name, i), item); err != nil {
			return err
		}
		v.Set(reflect.Append(v, item))
	}
	return nil
}

func decodeMap(form url.Values, name string, v reflect.Value) error {
	v.Set(reflect.MakeMap(v.Type()))
	for i := 1; present(form, element(name, i)); i++ {
		key := form.Get(element(name, i) + ".Name")
		if key == "" {
			key = form.Get(element(name, i) + ".Key")
		}
		item := reflect.New(v.Type().Elem()).Elem()
		if err := decodeValue(form, element(name, i)+".Value", item); err != nil {
			return err
		}
		v.SetMapIndex(reflect.ValueOf(key), item)
	}
	return nil
}

func element(name string, i int) string { return name + "." + strconv.Itoa(i) }

func present(form url.Values, name string) bool {
	if form.Has(name) {
		return true
	}
	for key := range form {
		if strings.HasPrefix(key, name+".") {
			return true
		}
	}
	return false
}
